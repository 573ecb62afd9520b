"""Benchmarks of the package's main parts.

timing      the clock, the machine's matmul rate, memory
flops       FLOPs of the matrix products in the policy's equations
simulator   the simulator, compared with plain Python  peer       MRLCO's own simulator
iteration   a meta-iteration, whole and in `parts`     startup    compilation, cold and with a persistent cache
proving     the optimum on systems of every kind
planning    argmax plans from a trained policy         growth     over n, DAGs, rollouts, tasks, devices; `figure`
sections    sections of the benchmark                  report     tables and ratios

The name of every measured number ends in its unit: `_seconds`, `_seconds_per_dag`, `_per_second`, `_gb`; a `fraction`
and a `speedup` have no unit. Other names are sizes of the workload.
"""
