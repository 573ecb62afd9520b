# %% [markdown]
# # 3. Does the win survive?
#
# *To run it in Colab, open it there by File, Open notebook, GitHub, and set `REPOSITORY` in the next cell.*
#
# MRLCO (Wang et al., IEEE TPDS 2021), the method that MRLATO builds on, is reported to beat a greedy heuristic. Its
# public code has a fault in the simulator: tasks without parents ("entry tasks") never queue on the uplink, so any
# number of them upload at the same time, each at the full rate. A learner exploits such a fault. This notebook measures
# how the standing of each method changes with the rules, and how plans made for the faulty simulator perform under
# correct rules.

# %%
import importlib.util
import subprocess
import sys

REPOSITORY = ""  # the address that `git clone` takes; needed only where the package is not installed

if importlib.util.find_spec("mrlato_jax") is None:
    if not REPOSITORY:
        sys.exit("mrlato_jax is not installed here: set REPOSITORY above to its address, and run this cell again")
    package = f"mrlato_jax[plots] @ git+{REPOSITORY}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% [markdown]
# The next cell sets all sizes. `MRLATO_NOTEBOOK_TINY=1` in the environment selects sizes for a test of the notebook.
# The DAGs are wide (`fat` 0.8), where the fault matters most: about half of all tasks are entry tasks.

# %%
import os

TINY = os.environ.get("MRLATO_NOTEBOOK_TINY") == "1"
NUM_TASKS = 6 if TINY else 14
FAT = 0.8
TRAIN_DENSITIES = (0.4, 0.8) if TINY else (0.4, 0.5, 0.7, 0.8)  # one training set each
UNSEEN_DENSITY = 0.6
GRAPHS = 4 if TINY else 40  # DAGs in each set, the unseen one too
TRAINED_UNDER = ("mrlco_code",) if TINY else ("paper", "mrlco", "mrlco_code")
SEEDS = (0,) if TINY else (0, 1)
ITERATIONS = 2 if TINY else 160
POLICY = {
    "decoder_input": "task_sim",
    "units": 16 if TINY else 32,
    "heads": 2,
    "layers": 1,
    "neighbour_width": 16,
}
LEARNING = {
    "inner_lr": 3e-3,
    "outer_lr": 9e-3,
    "inner_steps": 1 if TINY else 3,
    "meta_batch": len(TRAIN_DENSITIES),
    "graphs_per_task": 2 if TINY else 12,
    "rollouts": 2 if TINY else 16,
    "gamma": 1.0,
}

# %%
import time

import matplotlib.pyplot as plt
import numpy as np

import mrlato_jax as mj
from mrlato_jax.mec.system import CHANNELS
from mrlato_jax.planners import random_placement, simulated_plan

plt.rcParams["figure.dpi"] = 70
MS = 1e3  # the package computes in seconds, figures and tables show milliseconds

# %% [markdown]
# ## Three sets of rules
#
# - `paper`: MRLATO's equations (7) to (10). One upload and one download at a time, and a child is uploaded only when
#   its parents' results are back.
# - `mrlco`: the text of MRLCO. A child may be uploaded once its parents are uploaded, and downloads do not queue.
# - `mrlco_code`: MRLCO's public code, which is `mrlco` with the fault.
#
# Clocks, rates, DAGs and the scheduling order are the same.

# %%
RETURNING = {channel: rules for channel, rules in CHANNELS.items() if not rules.results_stay}
systems = {channel: mj.System(channel=channel) for channel in RETURNING}
for channel, rules in RETURNING.items():
    print(f"{channel:11s}", rules._asdict())


def draw_set(density, seed):
    rng = np.random.default_rng([int(100 * density), seed])
    return [mj.daggen(NUM_TASKS, FAT, density, rng) for _ in range(GRAPHS)]


training_sets = [draw_set(density, seed=0) for density in TRAIN_DENSITIES]
unseen = draw_set(UNSEEN_DENSITY, seed=1)
entries = [~graph.adjacency.any(axis=0) for graph in unseen]  # of each DAG: which tasks have no parents
print(f"{np.mean([entry.sum() for entry in entries]):.1f} of {NUM_TASKS} tasks of an unseen DAG are entry tasks")

# %% [markdown]
# The effect of the fault on one DAG with all tasks offloaded: the uplink carries several uploads at once.

# %%
graph = unseen[0]
everything = np.ones(graph.num_tasks, np.int32)
upload_ms = MS * 8 * graph.upload_bytes / systems["paper"].uplink_bps
figure, panels = plt.subplots(1, 2, figsize=(11, 3.6), sharex=True, sharey=True)
for axes, channel in zip(panels, ("mrlco", "mrlco_code"), strict=True):
    plan = simulated_plan(graph, systems[channel], everything)
    for place, task in enumerate(plan.order):
        begin = MS * plan.schedule.upload_end[task] - upload_ms[task]
        colour = "C3" if entries[0][task] else "C0"
        axes.barh(place, upload_ms[task], left=begin, color=colour)
    axes.set_title(f"{channel}: latency {MS * plan.makespan:.0f} ms", fontsize=10)
    axes.set_xlabel("time on the uplink, ms")
panels[0].set_ylabel("position in the order")
panels[0].invert_yaxis()
panels[1].barh(0, 0, color="C3", label="entry task")
panels[1].barh(0, 0, color="C0", label="has parents")
panels[1].legend(loc="upper right")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## A policy for each set of rules
#
# The same small policy is trained under each set of rules, with the same settings and seeds (notebook 2 explains the
# steps). It is not MRLCO's network; both learn from the simulator that they are given.


# %%
def train_under(channel):
    """One trained policy a seed."""
    began = time.monotonic()
    trained = mj.train(
        training_sets, systems[channel], method="mrlato", iterations=ITERATIONS, network=POLICY, learning=LEARNING,
        seed=SEEDS, progress=False,
    )  # fmt: skip
    gaps = ", ".join(f"{curve.above_heft[-1]:+.1%}" for _, curve in trained)
    print(f"{channel:11s} {time.monotonic() - began:4.0f} s; sampled plans at the end vs HEFT-based: {gaps}")
    return [policy for policy, _ in trained]


policies = {channel: train_under(channel) for channel in TRAINED_UNDER}
print(policies["mrlco_code"][0].label)

# %% [markdown]
# ## (a) Standing under each set of rules
#
# Every method plans the unseen DAGs with knowledge of the rules, and the same rules time its plans. The table shows the
# mean latency above the mean of the proven optima *under these rules*. MRLCO's greedy is called HEFT-based here: in the
# priority order, each task takes the side where it ends sooner. (Our greedy takes the tasks in the order of their ids.)
# MRLCO's own heuristic is a second copy of the rules *without* the fault, so it does not know of the fault. It is the
# row "HEFT-based, planned under mrlco".


# %%
def each(planner):
    """The plans of one planner, by the rules that it knew: {channel: [plan, ...]}."""
    return {channel: [planner(graph, system) for graph in unseen] for channel, system in systems.items()}


rng = np.random.default_rng(0)
plans = {
    "all-local": each(mj.all_local),
    "all-offload": each(mj.all_offload),
    "random": each(lambda graph, system: random_placement(graph, system, rng)),
    "greedy": each(mj.greedy),
    "HEFT-based": each(mj.heft),
    "local search": each(mj.local_search),
    "optimum": each(mj.optimum),
}
for channel, trained in policies.items():
    for seed, policy in zip(SEEDS, trained, strict=True):
        plans.setdefault(f"policy, seed {seed}", {})[channel] = policy.plan(unseen, systems[channel])
unproven = sum(not plan.proven for optima in plans["optimum"].values() for plan in optima)
print(f"optima that are not proven: {unproven} of {len(systems) * GRAPHS}")


def latency(made, channel):
    """Latency of plans when their placements run in the priority order under other rules, seconds a DAG."""
    return np.array(
        [
            simulated_plan(graph, systems[channel], plan.placement).makespan
            for graph, plan in zip(unseen, made, strict=True)
        ]
    )


own = {
    name: {channel: np.array([plan.makespan for plan in made]) for channel, made in by_channel.items()}
    for name, by_channel in plans.items()
}
own["HEFT-based, planned under mrlco"] = {"mrlco_code": latency(plans["HEFT-based"]["mrlco"], "mrlco_code")}
above = {
    name: {channel: values.mean() / own["optimum"][channel].mean() - 1 for channel, values in by_channel.items()}
    for name, by_channel in own.items()
}
print(f"{'mean above the optimum under the rules':34s}" + "".join(f"{channel:>12s}" for channel in systems))
print(f"{'optimum, ms':38s}" + "".join(f"{MS * own['optimum'][channel].mean():12.1f}" for channel in systems))
for name, by_channel in above.items():
    cells = [f"{by_channel[channel]:+12.1%}" if channel in by_channel else f"{'':12s}" for channel in systems]
    print(f"{name:38s}" + "".join(cells))

# %%
shown = [name for name in above if name not in ("optimum", "all-local", "random")]
figure, axes = plt.subplots(figsize=(9, 4.2))
for channel, marker, colour in zip(systems, "os^", ("C0", "C1", "C3"), strict=True):
    rows = [row for row, name in enumerate(shown) if channel in above[name]]
    values = [100 * above[shown[row]][channel] for row in rows]
    axes.scatter(values, rows, marker=marker, s=60, color=colour, label=channel)
axes.set_yticks(range(len(shown)), shown)
axes.invert_yaxis()
axes.grid(axis="x", alpha=0.4)
axes.set_xlabel("mean latency, % above the proven optimum under the same rules")
axes.set_title("all-local and random are far to the right and left out")
axes.legend(loc="center right")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## (b) Plans made for one simulator, run by another
#
# The scheduling order depends on the times of the tasks alone, so it is the same under all rules, and a placement can
# be replayed. Each square below is a mean latency against that of the HEFT-based plans that were made for, and run by,
# the rules of its column. On the diagonal a method is judged by the rules that it knew. Read the bottom row from right
# to left: what a plan made under `mrlco_code` is worth where entry tasks queue.

# %%
for graph in unseen:
    orders = [mj.priority_order(graph, system).tolist() for system in systems.values()]
    assert orders[0] == orders[1] == orders[2]

replayed = ["HEFT-based", "optimum", *(name for name in plans if name.startswith("policy"))]
against_heft = {
    name: {
        (made_for, run_by): latency(made, run_by).mean() / own["HEFT-based"][run_by].mean() - 1
        for made_for, made in plans[name].items()
        for run_by in systems
    }
    for name in replayed
}
figure, panels = plt.subplots(1, len(replayed), figsize=(3.6 * len(replayed), 3.6), sharey=True)
channels = list(systems)
for axes, name in zip(panels, replayed, strict=True):
    values = np.full((len(channels), len(channels)), np.nan)
    for (made_for, run_by), value in against_heft[name].items():
        values[channels.index(made_for), channels.index(run_by)] = 100 * value
    axes.imshow(values, cmap="RdBu_r", vmin=-60, vmax=60)  # red: slower
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(column, row, f"{value:+.1f}", ha="center", va="center", fontsize=11)
    axes.set_xticks(range(len(channels)), channels)
    axes.set_yticks(range(len(channels)), channels)
    axes.set_title(name, fontsize=11)
    axes.set_xlabel("run by")
panels[0].set_ylabel("made for")
figure.suptitle("mean latency, % above HEFT-based made for and run by the rules of the column")
figure.tight_layout()
plt.show()

# %% [markdown]
# The same as text, for the plans made under `mrlco_code`. The second heuristic is MRLCO's, which does not know of the
# fault.

# %%
for name in replayed:
    made = plans[name]["mrlco_code"]
    print(f"{name}, made for mrlco_code")
    for run_by, heuristic in (
        ("mrlco_code", "HEFT-based, planned under mrlco"),
        ("mrlco_code", "HEFT-based"),
        ("mrlco", "HEFT-based"),
        ("paper", "HEFT-based"),
    ):
        values, reference = latency(made, run_by), own[heuristic][run_by]
        better = np.sum(values < reference * (1 - 1e-9))
        gap = values.mean() / reference.mean() - 1
        print(f"   run by {run_by:11s} {gap:+6.1%} vs {heuristic:32s} better on {better:2d} of {GRAPHS} DAGs")

# %% [markdown]
# A replayed plan is fixed. A policy could do better: it sees the simulator's queues (`task_sim`). So it may react when
# uploads begin to queue, although it was never trained under such rules.

# %%
for channel in TRAINED_UNDER:
    for seed, policy in zip(SEEDS, policies[channel], strict=True):
        values = np.array([plan.makespan for plan in policy.plan(unseen, systems["paper"])])
        gap = values.mean() / own["HEFT-based"]["paper"].mean() - 1
        print(f"trained under {channel:11s} seed {seed}, planning under paper: {gap:+6.1%} vs HEFT-based")

# %% [markdown]
# ## (c) The behaviour that the fault rewards
#
# The share of tasks that each method offloads, separately for entry tasks and other tasks.


# %%
def shares(made):
    """Share of the entry tasks, and of the others, that plans offload."""
    placements = np.concatenate([plan.placement for plan in made]) == 1
    entry = np.concatenate(entries)
    return placements[entry].mean(), placements[~entry].mean()


offloaded = {name: {channel: shares(made) for channel, made in plans[name].items()} for name in ["greedy", *replayed]}
print(f"{'offloaded, entry tasks / others':32s}" + "".join(f"{channel:>16s}" for channel in systems))
for name, by_channel in offloaded.items():
    cells = ["{:.0%} / {:.0%}".format(*by_channel[c]) if c in by_channel else "" for c in systems]
    print(f"{name:32s}" + "".join(f"{cell:>16s}" for cell in cells))

# %%
figure, panels = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True)
for axes, kind, title in zip(panels, (0, 1), ("entry tasks", "tasks with parents"), strict=True):
    for number, (channel, colour) in enumerate(zip(systems, ("C0", "C1", "C3"), strict=True)):
        rows = [row for row, name in enumerate(offloaded) if channel in offloaded[name]]
        values = [100 * offloaded[name][channel][kind] for name in offloaded if channel in offloaded[name]]
        axes.bar([row + 0.27 * (number - 1) for row in rows], values, width=0.25, color=colour, label=channel)
    axes.set_xticks(range(len(offloaded)), [name.replace(", ", ",\n") for name in offloaded], fontsize=9)
    axes.set_title(title)
panels[0].set_ylabel("offloaded, %")
panels[0].set_ylim(0, 100)
panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Results and limits
#
# In the run of default size whose outputs are stored above:
#
# - The standing depends on the rules. Trained in the same way, the policies beat HEFT-based under `mrlco_code`, and do
#   not under the other two. Under `mrlco_code`, HEFT-based itself is further from the optimum: there is more to win.
# - MRLCO's heuristic, which does not know of the fault, is the weaker opponent. Most of the distance from it needs no
#   learning: HEFT-based plans that know of the fault have it as well.
# - The win does not survive. Plans made for `mrlco_code`, and also the proven optima of that simulator, are in the mean
#   slower than HEFT-based under `mrlco`, which differs only by the fault, and fall further behind under `paper`.
# - The fault rewards offloading entry tasks: from `mrlco` to `mrlco_code`, every method shown offloads more of them,
#   and the increase is larger than the increase among the other tasks.
# - A policy is less brittle than its plans: it sees the queues, and loses less when it plans anew under `paper`. Its
#   two seeds differ widely in this loss.
#
# The notebook does not show what MRLCO's own network learns under correct rules, or would learn with as long a
# training. The policy here is small, sees the simulator's queues, which MRLCO's policy does not, and is trained
# briefly, with two seeds. Its one family of wide DAGs was chosen because the fault matters most there. The notebook
# also does not show that learning cannot win under `paper`: `docs/results.md` has longer runs. It shows that a win
# measured under `mrlco_code` is no evidence of a win under the other rules.
