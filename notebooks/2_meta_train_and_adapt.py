# %% [markdown]
# # 2. Meta-training a policy, and adapting it
#
# *To run it in Colab, open it there by File, Open notebook, GitHub, and set `REPOSITORY` in the next cell.*
#
# MRLATO learns a policy that decides task by task, in the priority order, whether to offload. From many sets of DAGs
# ("learning tasks") it learns a *starting point*: a few gradient steps from there lead to a good policy for an unseen
# set. This notebook trains a small policy, adapts it, and plans with it.

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
# The other sizes are also far below a full run's (2 layers of 128 units, 1000 trajectories a learning task, 2000
# iterations), so that training takes minutes on a laptop.

# %%
import os

TINY = os.environ.get("MRLATO_NOTEBOOK_TINY") == "1"
TRAIN_TASKS = (6, 6) if TINY else (10, 11, 13, 14)  # tasks a DAG, one entry a training set
UNSEEN_TASKS = 7 if TINY else 12
GRAPHS = 4 if TINY else 40  # DAGs in each set, the unseen one too
ITERATIONS = 3 if TINY else 350
MARKS = (0, 1, 2) if TINY else (0, 1, 2, 3, 6, 10, 15, 21, 30)  # updates after which the adapted policy is measured
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
    "meta_batch": len(TRAIN_TASKS),
    "graphs_per_task": 2 if TINY else 12,
    "rollouts": 2 if TINY else 16,
    "gamma": 1.0,
}

# %%
import time

import matplotlib.pyplot as plt
import numpy as np

import mrlato_jax as mj

plt.rcParams["figure.dpi"] = 70
MS = 1e3  # the package computes in seconds, figures and tables show milliseconds

# %% [markdown]
# ## Learning tasks
#
# A learning task is a set of DAGs under one system. The training sets here differ in the number of tasks a DAG. The
# unseen set has a number that no training set has. Width and density are drawn anew for each DAG.

# %%
system = mj.System()


def draw_set(num_tasks, seed):
    rng = np.random.default_rng([num_tasks, seed])
    return [mj.daggen(num_tasks, rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.8), rng) for _ in range(GRAPHS)]


training_sets = [draw_set(num_tasks, seed) for seed, num_tasks in enumerate(TRAIN_TASKS)]
unseen = draw_set(UNSEEN_TASKS, seed=100)

# %% [markdown]
# ## Meta-training
#
# One iteration (Algorithm 1 of the paper) draws a batch of learning tasks. On each, a copy of the policy samples plans
# of some DAGs and takes a few steps of PPO (the inner loop). Then the policy moves towards the mean of the copies (the
# outer loop). `mj.train` repeats this iteration. It returns a policy that can plan, an `Offloader`, and the curve of
# its training. A method is a record of settings; `network` and `learning` hold the settings that differ from it. The
# same call trains `"mrlco"` and `"drl"`.

# %%
began = time.monotonic()
trained, curve = mj.train(
    training_sets,
    system,
    method="mrlato",
    iterations=ITERATIONS,
    network=POLICY,
    learning=LEARNING,
    progress=sys.stdout,
)
print(f"{ITERATIONS} iterations, the compilation before them included, in {time.monotonic() - began:.0f} s")
print(trained.label)

# %% [markdown]
# The name lists the changed settings. With `task_sim` the decoder also sees the task that it decides and the
# simulator's queues. The paper's method without this change learns much more slowly.
#
# The curves show the plans that are *sampled* in training, at the start of each inner loop. The orange line is
# HEFT-based. Sampling explores, so the sampled plans are worse than the policy's likeliest plan; the difference shrinks
# as the entropy falls. The explained variance measures how well the learned value predicts the future rewards (1 is
# perfect, 0 no better than a constant).

# %%
curves = {
    "latency against HEFT-based": 100 * curve.above_heft,
    "entropy": curve.entropy,
    "explained variance": curve.value_explained,
}
figure, panels = plt.subplots(1, 3, figsize=(12, 3.4))
units = ("% above HEFT-based", "nats per decision", "share of the variance")
for axes, (name, values), unit in zip(panels, curves.items(), units, strict=True):
    axes.plot(range(1, ITERATIONS + 1), values, linewidth=1)
    axes.set_title(name)
    axes.set_xlabel("meta-iteration")
    axes.set_ylabel(unit)
panels[0].axhline(0, color="C1", linewidth=1)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Adapting to the unseen set
#
# `adapt` takes gradient steps on fresh samples of the given DAGs and returns another policy. The first policy does not
# change. `plan` decides every DAG by argmax. An update is one gradient step.

# %%
adapted = {updates: trained.adapt(unseen, system, updates=updates) for updates in MARKS}
curve_ms = [MS * np.mean([plan.makespan for plan in adapted[updates].plan(unseen, system)]) for updates in MARKS]

# %% [markdown]
# The figure compares with the heuristic and with local search on each DAG. Adaptation simulates plans of the scored
# DAGs, so it is in part a search, too. `local_search` may simulate as many plans of a DAG as the longest adaptation
# did, or any number of plans. No plan in this order can be below the optimum.

# %%
rounds = -(-max(MARKS) // trained.learning.inner_steps)
evaluations = rounds * trained.learning.rollouts


def mean_ms(planner):
    return MS * np.mean([planner(graph, system).makespan for graph in unseen])


references = {
    "HEFT-based": (mean_ms(mj.heft), "C1", "-"),
    f"local search, {evaluations} plans a DAG": (
        mean_ms(lambda graph, system: mj.local_search(graph, system, max_evaluations=evaluations)),
        "C4",
        ":",
    ),
    "local search": (mean_ms(mj.local_search), "C4", "--"),
    "optimum, proven": (mean_ms(mj.optimum), "C2", "-"),
}
optimum_ms = references["optimum, proven"][0]
heft_ms = references["HEFT-based"][0]

plt.figure(figsize=(9, 4.2))
plt.plot(MARKS, curve_ms, marker="o", color="C0", label="adapted policy")
for name, (value, colour, line) in references.items():
    plt.axhline(value, color=colour, linestyle=line, label=name)
plt.xlabel("updates (gradient steps on the unseen set)")
plt.ylabel("mean latency, ms")
plt.title(f"{GRAPHS} unseen DAGs of {UNSEEN_TASKS} tasks")
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.tight_layout()
plt.show()

print("                                     ms   above optimum   vs HEFT-based")
rows = {f"policy after {updates} updates": value for updates, value in zip(MARKS, curve_ms, strict=True)}
for name, value in {**rows, **{name: value for name, (value, *_) in references.items()}}.items():
    print(f"{name:32s} {value:7.1f}  {value / optimum_ms - 1:+13.1%}  {value / heft_ms - 1:+14.1%}")

# %% [markdown]
# ## Adapted to some DAGs, scored on others
#
# Now the adapted policies plan another set of the same kind. No gradient step has used its DAGs. (This set is also
# unseen by the authors. The number of iterations was raised from 150 to 350 after a look at the first unseen set, so
# the first set is no longer quite unseen.) If the gain above is a search over the scored DAGs, it is missing here. If
# it is knowledge of such DAGs, it stays. With so few DAGs and one seed, a difference of a percent is not significant.

# %%
others = draw_set(UNSEEN_TASKS, seed=101)
heft_others_ms = MS * np.mean([mj.heft(graph, system).makespan for graph in others])
most = max(MARKS)
for updates in (0, most):
    value = MS * np.mean([plan.makespan for plan in adapted[updates].plan(others, system)])
    print(f"other DAGs, after {updates:2d} updates: {value:.1f} ms, {value / heft_others_ms - 1:+.1%} vs HEFT-based")

# %% [markdown]
# ## Planning one DAG
#
# A program plans one graph with one call.

# %%
graph = unseen[0]
plan = adapted[most].plan(graph, system)
print("offloaded tasks:", np.flatnonzero(plan.placement).tolist())
print("order:          ", plan.order.tolist())
for name, value in (
    ("policy", plan.makespan),
    ("HEFT-based", mj.heft(graph, system).makespan),
    ("optimum", mj.optimum(graph, system).makespan),
):
    print(f"{name:11s} {MS * value:6.1f} ms")

# %% [markdown]
# ## Results
#
# In the run whose outputs are stored here, the small policy is level with HEFT-based before any update (0.2 % above)
# and 0.9 % below after 30. Local search with as many simulated plans is 2.3 % below. On DAGs that it was not adapted
# to, the policy gains nothing by adapting: the 0.9 % were a search over the scored DAGs. So a policy of this size is
# not worth using for its plans. `docs/results.md`, section "Closing the gap", describes a policy that is, and
# `launch/meta_train.py` trains it. The next notebook asks whether such a result survives a change of the simulator's
# rules.
