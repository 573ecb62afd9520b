# %% [markdown]
# # 6. Measured and predicted latency
#
# *To run it in Colab, open it there by File, Open notebook, GitHub, and set `REPOSITORY` in the next cell.*
#
# The other notebooks compute the latency of a plan. This notebook runs plans: a device and a server are processes of
# this machine, with a link of 7 Mbit/s between them. It shows the difference between the model and the measurement, and
# the effect of calibration.

# %%
import importlib.util
import subprocess
import sys

REPOSITORY = ""  # the address that `git clone` takes; needed only where the package is not installed

if importlib.util.find_spec("mrlato_jax") is None:
    if not REPOSITORY:
        sys.exit("mrlato_jax is not installed here: set REPOSITORY above to its address, and run this cell again")
    package = f"mrlato_jax[edge,plots] @ git+{REPOSITORY}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% [markdown]
# The next cell sets all sizes. `MRLATO_NOTEBOOK_TINY=1` in the environment selects sizes for a test of the notebook.

# %%
import os

TINY = os.environ.get("MRLATO_NOTEBOOK_TINY") == "1"
NAMES = ("exp2:n10:0",) if TINY else ("ar", "map_reduce", "exp2:n10:0", "exp2:n20:2")
RUNS = 2 if TINY else 3
MODES = ("all_local", "all_offload", "heft", "search")

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display
from matplotlib.ticker import LogLocator

import mrlato_jax as mj
from mrlato_jax.drawing import png
from mrlato_jax.edge import comparison
from mrlato_jax.edge.calibrate import calibrate
from mrlato_jax.edge.cases import one
from mrlato_jax.edge.scheduler import Scheduler
from mrlato_jax.edge.testbed import Bed

plt.rcParams["figure.dpi"] = 70
MS = 1e3  # the package computes in seconds, figures and tables show milliseconds

# %% [markdown]
# ## Applications, measured
#
# `Bed` is a testbed: a phone and a server on this machine. Its `case` runs an application a few times at both ends and
# measures each task's work and the bytes of its result. A DAG of the data sets already has both: its tasks burn their
# cycles and carry their bytes. The phone gets a tenth of the processor's time. Programs that compute on much data find
# the caches cold after each pause, so their phone is slower than a tenth.

# %%
system = mj.System(channel="resident")
bed = Bed(system, NAMES)
cases = [bed.case(name) for name in NAMES]
for chosen in cases:
    graph, hertz = chosen.graph, one(chosen.system.ue_hz)
    work, sent = MS * graph.cycles.sum() / hertz, graph.download_bytes.sum() / 1e3
    print(
        f"{chosen.name:12s} {graph.num_tasks:3d} tasks, {work:6.0f} ms of work at a phone of {hertz / 1e9:.2f} GHz, "
        f"{sent:5.0f} kB of results"
    )

# %% [markdown]
# ## Both ends, and a run
#
# `with bed` starts the server and makes the link, with network namespaces and the kernel's shaping where this machine
# allows them, else with a proxy. Each application runs under four plans. The figure shows one run of the last
# application: the upper, pale bars are the model's, the lower bars are measured.

# %%
scheduler = Scheduler()
plans = {chosen.name: {mode: scheduler.plan(chosen.graph, chosen.system, mode) for mode in MODES} for chosen in cases}
with bed:
    runs = {chosen.name: bed.runs(chosen, chosen.system, plans[chosen.name], RUNS) for chosen in cases}
print(f"link: {bed.link}; isolation: {bed.vm}; the phone's clock: by {bed.clock}")
last = cases[-1]
shown = next(run for mode, _, run in runs[last.name] if mode == "search")
model = comparison.predicted(shown, last.graph, last.system)
display(Image(png(comparison.both_schedules(shown, model, last.graph.names, f"{last.name}, search"))))

# %% [markdown]
# ## All runs
#
# Each point is a run. On the line, the model is exact.

# %%
rows = [comparison.as_row(chosen, chosen.system, *run) for chosen in cases for run in runs[chosen.name]]


def scatter(axes, rows, title):
    """Measured over predicted, a colour for each application."""
    for number, name in enumerate(dict.fromkeys(row["app"] for row in rows)):
        of = [row for row in rows if row["app"] == name]
        model, real = ([MS * row[key] for row in of] for key in ("predicted_s", "measured_s"))
        axes.plot(model, real, "o", markersize=4, color=f"C{number}", label=name)
    ends = np.array([0.8, 1.25]) * [
        pick(MS * row[key] for row in rows for key in ("predicted_s", "measured_s")) for pick in (min, max)
    ]
    axes.plot(ends, ends, color="0.5", linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.set_xlabel("predicted, ms")
    axes.set_ylabel("measured, ms")
    off = comparison.errors(rows)
    axes.set_title(f"{title}: off by {off['median']:.1f} % in the median, {off['p95']:.1f} % at the 95th percentile")


figure, axes = plt.subplots(figsize=(8, 5))
scatter(axes, rows, "as planned")
axes.legend()
figure.tight_layout()
plt.show()
kept, asked = comparison.promises_kept(rows, "search", ("all_local", "all_offload"))
print(f"the plan of search was faster than all-local and all-offload in {kept} of {asked} runs where the model says so")

# %% [markdown]
# ## Time that the model does not have
#
# By resource: the additional time of a task or a transfer, compared with the model.

# %%
for chosen in cases:
    late = comparison.lateness([run for _, _, run in runs[chosen.name]], chosen.graph, chosen.system)
    said = [
        f"{resource} {row['median_ms']:+5.1f} ms ({row['median_percent']:+3.0f} %)" for resource, row in late.items()
    ]
    print(f"{chosen.name:12s} {', '.join(said)}")

# %% [markdown]
# ## Calibration
#
# `calibrate` turns measured runs into the graph and the system that they imply: the clocks, the rates, each task's work
# and the time of each message. Each application is planned and run again with the calibrated graph and system.

# %%
known = {
    chosen.name: calibrate([run for _, _, run in runs[chosen.name]], chosen.graph, chosen.system) for chosen in cases
}
again = {
    name: {mode: scheduler.plan(implied.graph, implied.system, mode) for mode in MODES}
    for name, implied in known.items()
}
with bed:
    more = {chosen.name: bed.runs(chosen, known[chosen.name].system, again[chosen.name], RUNS) for chosen in cases}
rows_after = [
    comparison.as_row(chosen._replace(graph=known[chosen.name].graph), known[chosen.name].system, *run)
    for chosen in cases
    for run in more[chosen.name]
]
for name, implied in known.items():
    hertz = one(implied.system.ue_hz), one(implied.system.vm_hz)
    rates = implied.system.uplink_bps, implied.system.downlink_bps
    print(
        f"{name:12s} phone {hertz[0] / 1e9:.2f} GHz, VM {hertz[1] / 1e9:.1f} GHz, "
        f"uplink {one(rates[0]) / 1e6:.1f} Mbit/s, downlink {one(rates[1]) / 1e6:.1f} Mbit/s"
    )
figure, both = plt.subplots(2, 1, figsize=(8, 9))
scatter(both[0], rows, "as planned")
scatter(both[1], rows_after, "after calibration")
both[0].legend()
figure.tight_layout()
plt.show()

# %% [markdown]
# The remaining differences come from the machine's other jobs, and from tasks that ran at one end only: their work at
# the other end follows from the ratio of the clocks. [docs/edge.md](../docs/edge.md) has the figures of a large
# measurement.
