"""How fast the machine runs the parts that matter.

timing      the clock, the machine's own matmul rate, memory
flops       the matrix products that the policy's equations ask for
simulator   the simulator beside plain Python          peer       MRLCO's own module
iteration   a meta-iteration, whole and in `parts`     startup    compiling, cold and with a persistent cache
proving     the optimum on systems of every kind
planning    argmax plans from a trained policy         growth     against n, DAGs, rollouts, tasks, devices; `figure`
sections    what is measured together                  report     tables and ratios

Every figure's name ends in its unit: `_seconds`, `_seconds_per_dag`, `_per_second`, `_gb`; a `fraction` and a
`speedup` have none. What ends otherwise says how large the measured thing was.
"""
