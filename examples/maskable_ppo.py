"""A public PPO, `MaskablePPO` of sb3-contrib, learns to offload on the Gymnasium environment of this package.

    pip install torch --index-url https://download.pytorch.org/whl/cpu  # without it Linux gets CUDA, 6.2 GB
    pip install -c constraints.txt -e '.[gym,plots]' 'sb3-contrib>=2.7,<3'
    python examples/maskable_ppo.py

It trains on applications that are drawn anew each episode, and plans applications that it has never met. Beside it
stand all-local, HEFT-based and look-ahead plans and the proven optimum of the same applications. It ends with a table,
and with a record and a figure in --out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import mrlato_jax as mj
from mrlato_jax.drawing import COLOURS, LINES, png
from mrlato_jax.environment import Applications
from mrlato_jax.environment.gym import ID
from mrlato_jax.errors import check_number
from mrlato_jax.progress import Progress, format_table

NUM_TASKS = 20
APPLICATIONS = Applications(num_tasks=(NUM_TASKS, NUM_TASKS), fat=(0.4, 0.8), density=(0.4, 0.8))  # the paper's
SYSTEM = mj.System()
SCALE = "all_local"  # rewards in shares of the local time: those of large and of small applications count alike
EPISODES_AT_ONCE = 32
HELD_OUT_SEED = 20_000

PPO: dict[str, Any] = {
    "n_steps": 4 * NUM_TASKS,  # of each environment between two updates
    "batch_size": 512,
    "n_epochs": 6,
    "learning_rate": lambda left: 1e-3 * max(left, 0.0),  # left of training: 1 to 0, below where a rollout overshoots
    "gamma": 1.0,  # an episode ends after its last task
    "gae_lambda": 0.95,
    "ent_coef": 0.003,
}
UNITS = [128, 128]
ROLLOUT = EPISODES_AT_ONCE * PPO["n_steps"]  # decisions between two updates

Decide = Callable[[np.ndarray, np.ndarray], Any]
"""(observations [B, ...], action masks [B, A]) -> actions [B]."""


def held_out(count: int) -> list[mj.TaskGraph]:
    """Applications that no episode meets: numpy draws them from the same family."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    shapes = rng.uniform(0.4, 0.8, (count, 2))
    return [mj.daggen(NUM_TASKS, fat, density, rng) for fat, density in shapes]


def measurement(graphs: list[mj.TaskGraph]) -> Callable[[Decide], float]:
    """A function that gives the mean makespan of what a `Decide` plans, seconds; all applications side by side."""
    envs = gymnasium.make_vec(ID, num_envs=len(graphs), applications=graphs, system=SYSTEM)

    def mean_latency(decide: Decide) -> float:
        observations, info = envs.reset(options={"index": range(len(graphs))})
        for _ in range(NUM_TASKS):
            observations, _, ended, _, info = envs.step(decide(observations, info["action_mask"].astype(bool)))
        assert ended.all()
        return float(info["makespan"].mean())

    return mean_latency


def references(graphs: list[mj.TaskGraph]) -> dict[str, float]:
    """Mean makespans of plans without learning, seconds."""
    planners: dict[str, Callable[..., mj.Plan]] = {
        "all-local": mj.all_local,
        "HEFT-based": mj.heft,
        "look-ahead": mj.look_ahead,
        "optimum": mj.optimum,
    }
    plans: dict[str, list[mj.Plan]] = {name: [] for name in planners}
    with Progress(len(planners) * len(graphs), "plans without learning", interval=5.0) as progress:
        for name, planner in planners.items():
            for graph in graphs:
                plans[name].append(planner(graph, SYSTEM))
                progress.update(sum(map(len, plans.values())), plan=name)
    unproven = sum(not plan.proven for plan in plans["optimum"])
    if unproven:
        print(f"{unproven} of {len(graphs)} optima are not proven: the best plans found count")
    return {name: float(np.mean([plan.makespan for plan in made])) for name, made in plans.items()}


def train(seed: int, steps: int, every: int, graphs: list[mj.TaskGraph]) -> list[dict[str, float]]:
    """Trains one seed; its mean latency on the held-out applications before, during and after."""
    import torch
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    envs = make_vec_env(
        ID,
        n_envs=EPISODES_AT_ONCE,
        seed=seed,
        env_kwargs={"applications": APPLICATIONS, "system": SYSTEM, "reward_scale": SCALE, "render_mode": None},
    )
    network = {"net_arch": UNITS, "activation_fn": torch.nn.ReLU}
    torch.set_num_threads(1)  # a network as small as this gains nothing from more
    model = MaskablePPO("MlpPolicy", envs, seed=seed, device="cpu", policy_kwargs=network, **PPO)
    mean_latency = measurement(graphs)
    curve: list[dict[str, float]] = []
    began, measuring = time.monotonic(), 0.0

    def measure() -> None:
        nonlocal measuring
        started = time.monotonic()
        latency = mean_latency(lambda seen, masks: model.predict(seen, action_masks=masks, deterministic=True)[0])
        curve.append({"steps": model.num_timesteps, "latency_s": latency, "training_s": started - began - measuring})
        measuring += time.monotonic() - started
        print(
            f"seed {seed}, {model.num_timesteps:7d} steps, {curve[-1]['training_s']:4.0f} s: {1e3 * latency:.1f} ms",
            flush=True,
        )

    class Measure(BaseCallback):
        """Measures between updates, as soon as so many steps have passed."""

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if model.num_timesteps >= len(curve) * every:
                measure()

    model.learn(steps, callback=Measure())
    measure()
    return curve


def figure(record: dict[str, Any]) -> bytes:
    """The curves of all seeds in % above the optimum, with the plans without learning, as a PNG file."""
    from matplotlib.figure import Figure

    best = record["references"]["optimum"]
    drawn = Figure(figsize=(9.5, 4.2), layout="constrained")
    axes = drawn.subplots()
    for number, (seed, curve) in enumerate(record["curves"].items()):
        above = [100 * (point["latency_s"] / best - 1) for point in curve]
        thousands = [point["steps"] / 1e3 for point in curve]
        axes.plot(thousands, above, color=COLOURS[number % len(COLOURS)], marker=".", label=f"MaskablePPO, seed {seed}")
    for name in ("all-local", "HEFT-based", "look-ahead"):
        colour, style = LINES[name]
        axes.axhline(100 * (record["references"][name] / best - 1), color=colour, linestyle=style, label=name)
    axes.set_yscale("log")
    ticks = (1, 2, 5, 10, 20, 50, 100, 200)
    axes.set_yticks(ticks, [f"{tick} %" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylabel("mean latency above the proven optimum")
    axes.set_xlabel("decisions in training, thousands")
    axes.set_title(f"{record['held_out']} applications of {NUM_TASKS} tasks that no episode met", fontsize=11)
    axes.grid(axis="y", alpha=0.3)
    drawn.legend(loc="outside right upper")  # beside the curves, wherever they run
    return png(drawn)


def table(record: dict[str, Any]) -> str:
    """Mean latencies before and after training, and of plans without learning."""
    best = record["references"]["optimum"]
    rows = [
        [name, f"{1e3 * latency:.1f}", f"{100 * (latency / best - 1):+.1f} %"]
        for name, latency in record["references"].items()
    ]
    for seed, curve in record["curves"].items():
        for name, point in (("before", curve[0]), ("after", curve[-1])):
            latency = point["latency_s"]
            when = f"{name} training" + (f", {point['steps']:,} decisions" if point["steps"] else "")
            rows.append(
                [f"MaskablePPO, seed {seed}, {when}", f"{1e3 * latency:.1f}", f"{100 * (latency / best - 1):+.1f} %"]
            )
    return format_table(["plan", "mean latency, ms", "above the optimum"], rows)


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description, and shows defaults."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The arguments, by default of the command line; ends the program with a message where one is not accepted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Help)
    parser.add_argument(
        "--steps",
        type=int,
        default=120_000,
        help=f"decisions in training, of each seed, rounded up to rollouts of {ROLLOUT:,}; a short run needs at "
        f"least {12 * ROLLOUT:,}",
    )
    parser.add_argument(
        "--every", type=int, default=7_500, help="decisions from one measurement to the next, rounded up to rollouts"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each has a process")
    parser.add_argument("--held_out", type=int, default=100, help="applications that plans are measured on")
    parser.add_argument("--out", type=Path, default=Path("runs/maskable_ppo"), help="folder of the record and figure")
    parsed = parser.parse_args(given)
    try:
        for name in ("steps", "every", "held_out"):
            check_number(f"--{name}", getattr(parsed, name), low=1, integer=True)
        for seed in parsed.seeds:
            check_number("--seeds", seed, low=0, high=2**32 - 1, integer=True)
    except mj.InputError as error:
        parser.error(str(error))
    return parsed


def main() -> None:
    """Trains, and writes what came of it."""
    given = arguments()
    graphs = held_out(given.held_out)
    with multiprocessing.get_context("spawn").Pool(len(given.seeds)) as side_by_side:
        curves = side_by_side.starmap(train, [(seed, given.steps, given.every, graphs) for seed in given.seeds])
    record: dict[str, Any] = {
        "settings": {name: getattr(given, name) for name in ("steps", "every", "seeds", "held_out")},
        "held_out": given.held_out,
        "references": references(graphs),
        "curves": dict(zip(map(str, given.seeds), curves, strict=True)),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "maskable_ppo.json").write_text(json.dumps(record, indent=1) + "\n")
    (given.out / "maskable_ppo.png").write_bytes(figure(record))
    print(table(record))
    print(f"record and figure: {given.out}")


if __name__ == "__main__":
    main()
