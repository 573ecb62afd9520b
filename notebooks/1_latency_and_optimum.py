# %% [markdown]
# # 1. The cost of a plan, and the best cost
#
# *To run it in Colab, open it there by File, Open notebook, GitHub, and set `REPOSITORY` in the next cell.*
#
# An application is a directed acyclic graph (DAG) of tasks. Each task runs on the phone (the user equipment, UE) or is
# offloaded to a virtual machine (VM) at the edge of the network. This notebook shows the effects of these decisions:
# the schedule, its latency, the lowest possible latency, and the influence of the order of the tasks.

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
NUM_TASKS = 6 if TINY else 12  # of the DAG that is looked at closely: all 2^n placements are simulated
RANDOM_ORDERS = 10 if TINY else 300
TABLE_DAGS, TABLE_TASKS = (2, 7) if TINY else (12, 20)
ANNEALING_STEPS = 200 if TINY else 3000

# %%
import itertools

import jax
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np

import mrlato_jax as mj
from mrlato_jax.mec.system import task_times
from mrlato_jax.planners import simulated_plan

plt.rcParams["figure.dpi"] = 70
MS = 1e3  # the package computes in seconds, figures and tables show milliseconds

# %% [markdown]
# ## One application
#
# `mj.daggen` draws a DAG level by level. `fat` sets the width of a level, `density` the number of tasks of the level
# above that a task needs. `mj.System` holds the two clocks and the two rates. Its defaults are a UE of 1 GHz, a VM of
# 10 GHz, and 7 Mbit/s each way.

# %%
system = mj.System()
graph = mj.daggen(num_tasks=NUM_TASKS, fat=0.6, density=0.6, rng=np.random.default_rng(0), ccr=0.4)

network = graph.to_networkx()
for level, tasks in enumerate(nx.topological_generations(network)):
    for task in tasks:
        network.nodes[task]["level"] = level
across = nx.multipartite_layout(network, subset_key="level", align="horizontal")
position = {task: (x, -y) for task, (x, y) in across.items()}  # entry tasks on top
plt.figure(figsize=(6, 4))
nx.draw_networkx(network, position, node_color="lightsteelblue", node_size=420, font_size=10, arrowsize=14)
plt.title("an arrow leads from a task to one that needs its result")
plt.axis("off")
plt.show()

# %% [markdown]
# A local task occupies the UE for `ue`. An offloaded task occupies the uplink, the VM and the downlink, one after
# another. The VM is ten times as fast as the UE, but all data pass the channel. Where the last column is above the
# first, a task alone ends sooner on the phone. Offloading gains because the phone and the server work side by side.

# %%
times = task_times(graph, system)
uplink, vm, downlink = times.uplink[:, 0], times.vm[:, 0], times.downlink[:, 0]  # of the one server
print("task        ue    uplink      vm  downlink   offloaded, without waiting   (ms)")
for task in range(graph.num_tasks):
    row = [MS * column[task] for column in (times.ue, uplink, vm, downlink, times.offloaded)]
    print("{:4d}  {:8.1f}  {:8.1f}  {:6.1f}  {:8.1f}  {:8.1f}".format(task, *row))
print(f"{np.mean(times.offloaded < times.ue):.0%} of the tasks are faster offloaded, as long as nothing has to wait")

# %% [markdown]
# ## Schedules
#
# Each resource serves one task at a time, in the *scheduling order*. The default is the priority order: tasks with much
# work after them come first. A task starts when its resource is free and its parents' results are there. `mj.simulate`
# follows these rules, and times the plans of all planners below:
#
# - **all-local** offloads nothing;
# - **HEFT-based** goes through the priority order and puts each task on the side where this task ends sooner;
# - **optimum** is the best placement in the priority order, proven by branch and bound;
# - **order search** also looks for a better order. It proves nothing.

# %%
plans = {
    "all-local": mj.all_local(graph, system),
    "HEFT-based": mj.heft(graph, system),
    "optimum": mj.optimum(graph, system),
    "order search": mj.order_search(graph, system, steps=ANNEALING_STEPS),
}


NARROW_MS = 12  # bars with no room for a number; the same task stands to the left, on the uplink


def gantt(axes, plan, title):
    """One row a resource; a bar ends when the task leaves the resource and is as long as the task occupies it."""
    schedule = plan.schedule
    rows = (
        ("uplink", schedule.upload_end, uplink, "C0"),
        ("VM", schedule.vm_end, vm, "C2"),
        ("downlink", schedule.download_end, downlink, "C1"),
        ("UE", schedule.ue_end, times.ue, "C7"),
    )
    for height, (_, ends, lasts, colour) in enumerate(rows):
        for task in np.flatnonzero(ends > 0):
            begin, last = MS * (ends[task] - lasts[task]), MS * lasts[task]
            axes.barh(height, last, left=begin, color=colour, edgecolor="white", height=0.85)
            if last > NARROW_MS:
                axes.text(begin + last / 2, height, str(task), ha="center", va="center", fontsize=8)
    axes.axvline(MS * plan.makespan, color="black", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.invert_yaxis()
    result = f"{MS * plan.makespan:.1f} ms, {plan.placement.sum()} tasks offloaded"
    axes.set_title(f"{title}: {result}", loc="left", fontsize=10)


figure, panels = plt.subplots(len(plans), 1, figsize=(11, 9), sharex=True)
for axes, (name, plan) in zip(panels, plans.items(), strict=True):
    gantt(axes, plan, name)
panels[-1].set_xlabel("time, ms (dashed: latency of the plan; numbers: tasks)")
figure.tight_layout()
plt.show()
for name, plan in plans.items():
    print(f"{name:13s} order {plan.order.tolist()}")

# %% [markdown]
# HEFT-based decides task by task. The best side for one task may keep the uplink or the UE busy when a later task needs
# it. The optimum looks ahead, in the same order. Order search may also move a task forward in the order, and so fill a
# gap on a resource. (This DAG was chosen from two dozen because it shows these differences; the table at the end has
# means.)
#
# ## Every placement
#
# A small DAG has few enough placements to simulate all of them. `mj.makespan` is the same simulator, jitted, for a
# batch of packed DAGs. Here the batch repeats one DAG, with another placement in each entry.

# %%
placements = np.array(list(itertools.product((0, 1), repeat=NUM_TASKS)), np.int32)  # in scheduling order


def repeated(orders=None):
    """The DAG packed once for every placement."""
    packed = mj.pack([graph], system, orders=orders)
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf[0], (len(placements), *leaf.shape[1:])), packed)


latencies = MS * np.asarray(mj.makespan(repeated(), placements))
heft_ms, optimum_ms = MS * plans["HEFT-based"].makespan, MS * plans["optimum"].makespan
print(f"{len(latencies)} placements: best {latencies.min():.3f} ms, median {np.median(latencies):.1f} ms")
print(f"the proven optimum is {optimum_ms:.3f} ms; proven: {plans['optimum'].proven}")
print(f"{np.mean(latencies < heft_ms * (1 - 1e-6)):.2%} of all placements are better than HEFT-based")

# %%
marked = {
    "optimum": (optimum_ms, "C2", "-"),
    "HEFT-based": (heft_ms, "C1", "-"),
    "all-offload": (MS * mj.all_offload(graph, system).makespan, "C3", "--"),
    "all-local": (MS * plans["all-local"].makespan, "C5", ":"),
}
plt.figure(figsize=(9, 4))
plt.hist(latencies, bins=60, color="lightsteelblue")
for name, (value, colour, line) in marked.items():
    plt.axvline(value, color=colour, linestyle=line, linewidth=2, label=f"{name}: {value:.1f} ms")
plt.xlabel("latency, ms")
plt.ylabel("placements")
plt.title(f"all {len(latencies)} placements of one DAG, in its priority order")
plt.legend()
plt.show()

# %% [markdown]
# ## The value of another order
#
# The optimum is the best placement *in one order*. The next cell finds the best placement in each of many random orders
# (every task after its parents), again by simulating all placements.


# %%
def random_order(rng):
    """A linear extension: repeatedly any of the tasks whose parents are placed."""
    parents = [set(graph.parents(task).tolist()) for task in range(graph.num_tasks)]
    order = []
    while len(order) < graph.num_tasks:
        ready = [task for task in range(graph.num_tasks) if task not in order and parents[task] <= set(order)]
        order.append(int(rng.choice(ready)))
    return order


rng = np.random.default_rng(0)
best_of_order = np.array(
    [MS * float(mj.makespan(repeated([random_order(rng)]), placements).min()) for _ in range(RANDOM_ORDERS)]
)
searched_ms = MS * plans["order search"].makespan
plt.figure(figsize=(9, 4))
plt.hist(best_of_order, bins=40, color="lightsteelblue")
plt.axvline(optimum_ms, color="C2", linewidth=2, label=f"priority order: {optimum_ms:.1f} ms")
plt.axvline(searched_ms, color="C4", linestyle="--", linewidth=2, label=f"order search: {searched_ms:.1f} ms")
plt.xlabel("latency of the best placement in an order, ms")
plt.ylabel("random orders")
plt.legend()
plt.show()
better = np.mean(best_of_order < optimum_ms * (1 - 1e-6))
print(f"{better:.0%} of {RANDOM_ORDERS} random orders allow a better plan than the priority order")
print(f"order search against the optimum of the priority order: {searched_ms / optimum_ms - 1:+.1%}")

# %% [markdown]
# The reverse: one placement in many orders. The placement alone does not determine the latency.

# %%
placement = plans["HEFT-based"].placement
replayed = [MS * simulated_plan(graph, system, placement, random_order(rng)).makespan for _ in range(50)]
print(f"HEFT-based placement in its own order: {heft_ms:.1f} ms")
print(f"in 50 random orders: {min(replayed):.1f} to {max(replayed):.1f} ms")

# %% [markdown]
# ## More than one DAG
#
# A single DAG may be an exception. The next cell makes the same comparison on several larger DAGs. It prints the mean
# distance from the proven optimum of each DAG's priority order. A distance can be negative only for a plan in another
# order.

# %%
rng = np.random.default_rng(1)
graphs = [mj.daggen(TABLE_TASKS, fat=0.6, density=0.6, rng=rng) for _ in range(TABLE_DAGS)]
optima = np.array([mj.optimum(g, system).makespan for g in graphs])
planners = {
    "all-local": mj.all_local,
    "all-offload": mj.all_offload,
    "greedy": mj.greedy,
    "HEFT-based": mj.heft,
    "local search": mj.local_search,
    "order search": lambda g, s: mj.order_search(g, s, steps=ANNEALING_STEPS),
}
gaps = {}
for name, planner in planners.items():
    gaps[name] = np.array([planner(g, system).makespan for g in graphs]) / optima - 1
print(f"{TABLE_DAGS} DAGs of {TABLE_TASKS} tasks; optimum: {MS * optima.mean():.1f} ms in the mean")
print("                 mean      from      to   (above each DAG's optimum)")
for name, gap in gaps.items():
    print(f"{name:13s} {gap.mean():+8.1%}  {gap.min():+8.1%}  {gap.max():+8.1%}")

# %% [markdown]
# ## The value of resident results
#
# In the paper's model every result returns to the UE, and a task sends its own input even if the server already has it.
# With `channel="resident"` a result stays where it was computed and moves only when a task elsewhere needs it. The
# optima of the same DAGs under both rules:

# %%
stays = mj.System(channel="resident")
resident = np.array([mj.optimum(g, stays).makespan for g in graphs])
print(f"results return: {MS * optima.mean():.1f} ms in the mean;  results stay: {MS * resident.mean():.1f} ms")
print(f"results that stay are worth {1 - np.mean(resident / optima):.0%} of the latency of the optimum")

# %% [markdown]
# The [fifth notebook](5_energy_and_several_servers.ipynb) is about energy, several servers and pins.
#
# The gap between HEFT-based and the optimum is the most that a policy can gain in the priority order, which the method
# of the paper keeps. The next notebook trains such a policy.
