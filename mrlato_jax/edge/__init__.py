"""The paper's UE and MEC host as processes (section IV-A, Figures 1 and 3), measured beside the model. Extra `edge`.

| module | what it is |
| --- | --- |
| `application`, `dags`, `onnx_parts`, `apps` | applications: functions, DAGs, parts of a network, examples |
| `installed`, `parser` | an application is found; it is run, and becomes a `TaskGraph` |
| `codec` | what crosses between machines |
| `sandbox`, `vm`, `machine` | an isolated process, the program in it, and the runs on it |
| `certificates`, `traffic`, `mec` | who may come in, how much, and the host itself |
| `cluster` | VMs on the workers of a Dask cluster |
| `scheduler`, `ue` | plans, and runs them |
| `calibrate`, `comparison` | what runs imply; measured beside predicted |
| `link`, `namespaces`, `testbed`, `cases`, `command` | both ends on one machine, and the commands |
| `federation` | meta-training over UEs, with Flower |

Modules are imported one by one: a VM loads a few of them, and none that needs JAX.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else it reports each lost connection, which runs report themselves
