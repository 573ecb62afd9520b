"""Federated meta-training (Fig. 3): the UEs of an application area learn one meta-policy, and keep their DAGs.

A round is one iteration of Algorithm 1. Each learning task of its meta-batch belongs to one UE, which alone has the
DAGs: UE i has training set i. The server sends theta (a), each UE of the meta-batch runs the inner loop (b) and sends
theta' (c), and the server takes the outer step once all of them have answered (d). Every key derives from the seed, the
round and the learning task, as in `learning.outer`. So a round that is asked for again has the same answers, and the
parameters are those of `meta_iteration` in one process.

| modules | what they have |
| --- | --- |
| `settings` | what all know; the learning tasks of a round |
| `messages` | what a UE sends, what makes it refused, keys and signatures |
| `aggregation` | the mean, the median and the trimmed mean of updates |
| `local_trainer`, `global_trainer` | the paper's two modules, without a network between them |
| `one_process` | the same training in one process, to compare with |
| `flower`, `flower_server`, `flower_client` | Flower's processes, which carry the messages |
"""
