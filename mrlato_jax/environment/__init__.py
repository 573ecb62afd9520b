"""Offloading one DAG as a decision process: actions, features, reward, `reset` and `step`.

`process` has the transitions, `reward` what they earn, `features` what a policy is told, `rules` how the rest of a plan
is completed quickly, and `actions` the one encoding of a decision as a number.
"""
