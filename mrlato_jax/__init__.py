"""MRLATO in JAX: meta reinforcement learning for offloading task DAGs in mobile edge computing."""

import sys

from mrlato_jax.dag.daggen import daggen
from mrlato_jax.dag.formats.dax import read_dax
from mrlato_jax.dag.formats.dot import read_dot
from mrlato_jax.dag.formats.graphml import read_gml, read_graphml
from mrlato_jax.dag.formats.json_graph import read_json, write_json
from mrlato_jax.dag.formats.node_link import read_node_link
from mrlato_jax.dag.formats.onnx_model import read_onnx
from mrlato_jax.dag.formats.reading import AssumptionWarning
from mrlato_jax.dag.formats.saga import read_saga
from mrlato_jax.dag.formats.stg import read_stg
from mrlato_jax.dag.formats.wfformat import read_wfformat
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.environment.process import State, allowed, is_done, reset, step
from mrlato_jax.errors import InputError
from mrlato_jax.inference.in_time import TimedPlan
from mrlato_jax.inference.load import load_offloader
from mrlato_jax.inference.meta_training import Trained, TrainingCurve, train
from mrlato_jax.inference.offloader import Decision, Offloader
from mrlato_jax.instances.benchmark import Instance, load_benchmark
from mrlato_jax.instances.verifying import Verified, verify
from mrlato_jax.learning.ranges import OutsideTrainingWarning
from mrlato_jax.mec.arrays import DagArrays, pack
from mrlato_jax.mec.disturbance import DISTURBANCES, Disturbance
from mrlato_jax.mec.execution import execute
from mrlato_jax.mec.graph_arrays import GraphArrays, arrays, pack_graph
from mrlato_jax.mec.latency import Schedule, makespan, simulate
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.priority import priority_order
from mrlato_jax.mec.system import Power, System
from mrlato_jax.methods import METHODS
from mrlato_jax.planners import (
    PLANNERS,
    Plan,
    ProvenPlan,
    SearchedPlan,
    all_local,
    all_offload,
    front,
    greedy,
    heft,
    local_search,
    look_ahead,
    look_ahead_order,
    optimum,
    order_search,
)

__version__ = "0.1.0"

__all__ = [
    "DISTURBANCES",
    "METHODS",
    "PLANNERS",
    "AssumptionWarning",
    "DagArrays",
    "Decision",
    "Disturbance",
    "GraphArrays",
    "InputError",
    "Instance",
    "Objective",
    "Offloader",
    "OutsideTrainingWarning",
    "Plan",
    "Power",
    "ProvenPlan",
    "Schedule",
    "SearchedPlan",
    "State",
    "System",
    "TaskGraph",
    "TimedPlan",
    "Trained",
    "TrainingCurve",
    "Verified",
    "all_local",
    "all_offload",
    "allowed",
    "arrays",
    "daggen",
    "execute",
    "front",
    "greedy",
    "heft",
    "is_done",
    "load_benchmark",
    "load_offloader",
    "local_search",
    "look_ahead",
    "look_ahead_order",
    "makespan",
    "optimum",
    "order_search",
    "pack",
    "pack_graph",
    "priority_order",
    "read_dax",
    "read_dot",
    "read_gml",
    "read_graphml",
    "read_json",
    "read_node_link",
    "read_onnx",
    "read_saga",
    "read_stg",
    "read_wfformat",
    "reset",
    "simulate",
    "step",
    "train",
    "verify",
    "write_json",
]

if "gymnasium" in sys.modules:  # importing it would cost every program a tenth of a second
    import mrlato_jax.environment.gym  # noqa: F401 (registers the environment)
