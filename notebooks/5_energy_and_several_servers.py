# %% [markdown]
# # 5. Energy, several servers, pins, and results that stay
#
# *To run it in Colab, open it there by File, Open notebook, GitHub, and set `REPOSITORY` in the next cell.*
#
# The paper's system is one phone and one server, and every result returns to the phone. Many users have other systems,
# and this notebook plans for them: a camera that cannot be offloaded, tensors that should stay on the server, a near
# edge and a far cloud, and a battery. Every plan is compared with the proven optimum.

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

# %%
import os

TINY = os.environ.get("MRLATO_NOTEBOOK_TINY") == "1"
DAGS, TASKS = (2, 6) if TINY else (12, 15)
POINTS = 4 if TINY else 13
WEIGHTS = (0.5,) if TINY else (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)  # seconds that a joule is worth

# %%
import matplotlib.pyplot as plt
import numpy as np

import mrlato_jax as mj

plt.rcParams["figure.dpi"] = 70
MS = 1e3  # the package computes in seconds, figures and tables show milliseconds

# %% [markdown]
# ## An application with a camera
#
# Frames come from the camera, pass three stages of a neural network, and end on the screen. The camera and the screen
# are pinned to the phone. The near server has 10 GHz and a fast link, the far server 40 GHz and a slow link. They share
# the phone's radio, and a link of 1 Gbit/s connects them.

# %%
names = ["camera", "resize", "features", "detect", "screen"]
pipeline = mj.TaskGraph.from_edges(
    cycles=[2e6, 2e7, 2e8, 1.5e8, 1e6],
    upload_bytes=[0, 2e5, 1e5, 4e5, 4e3],
    download_bytes=[2e5, 1e5, 4e5, 4e3, 0],
    edges=[(0, 1), (1, 2), (2, 3), (3, 4)],
    names=names,
    pins=["ue", "any", "any", "any", "ue"],
)
near = {"vm_hz": 10e9, "uplink_bps": 20e6, "downlink_bps": 20e6}
both = {"vm_hz": [10e9, 40e9], "uplink_bps": [20e6, 8e6], "downlink_bps": [20e6, 8e6]}
systems = {
    "results return": mj.System(channel="paper", **near),
    "results stay": mj.System(channel="resident", **near),
    "results stay, two servers": mj.System(channel="resident", **both),
}

# %% [markdown]
# ## The value of resident results
#
# Where results return (the paper's rule), each stage downloads its result and the next stage uploads it again. Where
# results stay, the image is uploaded once and the boxes are downloaded once.

# %%
pipeline_plans = {name: mj.optimum(pipeline, system) for name, system in systems.items()}
figure, axes = plt.subplots(figsize=(7, 2.6))
for row, plan in enumerate(pipeline_plans.values()):
    axes.barh(row, MS * plan.makespan, color="C0")
    axes.text(MS * plan.makespan, row, f"  {MS * plan.makespan:.0f} ms, {plan.energy:.2f} J", va="center")
axes.set_yticks(range(len(pipeline_plans)), list(pipeline_plans))
axes.invert_yaxis()
axes.set_xlim(0, 1.3 * MS * max(plan.makespan for plan in pipeline_plans.values()))
axes.set_xlabel("latency of the optimum, ms")
figure.tight_layout()
plt.show()
for name, plan in pipeline_plans.items():
    where = ["phone" if site == 0 else f"server {site}" for site in plan.placement]
    print(f"{name:26s} {', '.join(f'{task}: {site}' for task, site in zip(names, where, strict=True))}")

# %% [markdown]
# ## Latency against energy
#
# `mj.front` returns plans that no other plan beats in both latency and energy, each proven. The figure shows slow
# links, where sending costs much, under both rules for results. The squares are methods that consider only latency.

# %%
rng = np.random.default_rng(3)
graph = mj.daggen(TASKS, fat=0.6, density=0.6, rng=rng)
slow = {"vm_hz": [10e9, 40e9], "uplink_bps": [3e6, 1.5e6], "downlink_bps": [3e6, 1.5e6]}
rules = {"results return": mj.System(channel="paper", **slow), "results stay": mj.System(channel="resident", **slow)}
fronts = {name: mj.front(graph, system, points=POINTS) for name, system in rules.items()}
system = rules["results stay"]
others = {
    "all-local": mj.all_local(graph, system),
    "all-offload": mj.all_offload(graph, system),
    "HEFT-based": mj.heft(graph, system),
    "look-ahead": mj.look_ahead(graph, system),
}
figure, axes = plt.subplots(figsize=(7, 4.5))
for name, colour in zip(fronts, ("0.6", "0.1"), strict=True):
    spans, joules = [MS * plan.makespan for plan in fronts[name]], [plan.energy for plan in fronts[name]]
    axes.plot(spans, joules, "o-", color=colour, drawstyle="steps-post", label=f"front, {name}")
for number, (name, plan) in enumerate(others.items()):
    axes.plot(MS * plan.makespan, plan.energy, "s", color=f"C{number}", label=f"{name}, results stay")
axes.set_xlabel("latency, ms")
axes.set_ylabel("energy of the phone, J")
axes.set_xlim(0)
axes.set_ylim(0)
axes.legend()
figure.tight_layout()
plt.show()
for name, front in fronts.items():
    fastest, thriftiest = front[0], front[-1]
    print(
        f"{name}: {len(front)} plans, all proven: {all(plan.proven for plan in front)}; fastest "
        f"{MS * fastest.makespan:.0f} ms, {fastest.energy:.2f} J; least energy {MS * thriftiest.makespan:.0f} ms, "
        f"{thriftiest.energy:.2f} J"
    )

# %% [markdown]
# ## Distance of quick rules and the policy from the optimum
#
# The mean cost of plans above the proven optimum, over several applications and for several weights of energy. Cost is
# latency + weight x energy. One trained policy, `general`, serves all weights: the weight is one of its inputs.

# %%
graphs = [mj.daggen(TASKS, fat=0.6, density=0.6, rng=rng) for _ in range(DAGS)]
planners = {
    "HEFT-based": mj.heft,
    "look-ahead": mj.look_ahead,
    "general, argmax": mj.load_offloader().plan,
    "local search": mj.local_search,
}
gaps = {name: [] for name in planners}
for weight in WEIGHTS:
    goal = mj.Objective(energy_weight=weight)
    best = [mj.optimum(one, system, objective=goal) for one in graphs]
    assert all(plan.proven for plan in best)
    for name, planner in planners.items():
        plans = [planner(one, system, objective=goal) for one in graphs]
        above = [
            goal.cost(plan.makespan, plan.energy) / goal.cost(least.makespan, least.energy) - 1
            for plan, least in zip(plans, best, strict=True)
        ]
        gaps[name].append(float(np.mean(above)))
figure, axes = plt.subplots(figsize=(7, 4))
for name, row in gaps.items():
    axes.plot(WEIGHTS, [100 * gap for gap in row], "o-", label=name)
axes.set_xlabel("weight of energy, seconds a joule")
axes.set_ylabel("% above the optimum")
axes.set_ylim(0)
axes.legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# HEFT-based considers one task at a time. So it does not see that a result that stays on a server draws the next task
# there. The look-ahead completes the plan from every site before it decides, and sees more of this effect.
