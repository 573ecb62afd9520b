"""The paper's UE and MEC host as processes (section IV-A, Figures 1 and 3), compared with the model. Extra `edge`.

| module | content |
| --- | --- |
| `application`, `dags`, `onnx_parts`, `apps` | applications: functions, DAGs, parts of a network, examples |
| `installed`, `parser` | loads an application; runs and measures it to get its `TaskGraph` |
| `codec` | the encoding of messages between machines |
| `sandbox`, `vm`, `machine` | an isolated process, the program in it, and the runs on it |
| `certificates`, `traffic`, `mec` | authentication, limits, and the MEC host itself |
| `cluster` | VMs on the workers of a Dask cluster |
| `scheduler`, `ue` | makes plans; runs them |
| `calibrate`, `comparison` | fits the model to measured runs; compares measured with predicted runs |
| `link`, `namespaces`, `testbed`, `cases`, `command` | both ends on one machine, and the commands |
| `federation` | meta-training over UEs, with Flower |

Import these modules one by one: a VM loads only a few of them, and none that needs JAX.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # gRPC would log each lost connection; runs report them already
