"""Federated meta-training (Fig. 3): the UEs of an application area learn one meta-policy and keep their DAGs private.

A round is one iteration of Algorithm 1. Each learning task of its meta-batch belongs to one UE, and only this UE has
the DAGs: UE i has training set i. The server sends theta (a). Each UE of the meta-batch runs the inner loop (b) and
sends theta' (c). When all have answered, the server takes the outer step (d). Every key derives from the seed, the
round and the learning task, as in `learning.outer`. So a repeated round has the same answers, and the parameters are
those of `meta_iteration` in one process.

| modules | content |
| --- | --- |
| `settings` | the shared settings; the learning tasks of a round |
| `messages` | answers of a UE, reasons to refuse them, keys and signatures |
| `aggregation` | the mean, the median and the trimmed mean of updates |
| `local_trainer`, `global_trainer` | the paper's two modules, without a network between them |
| `one_process` | the same training in one process, for comparison |
| `flower`, `flower_server`, `flower_client` | Flower's processes, which transport the messages |
"""
