"""Offloading one DAG as a decision process: actions, features, reward, `reset` and `step`.

`process` has the transitions, `reward` what they earn, `features` what a policy is told, `rules` how the rest of a plan
is completed quickly, and `actions` the one encoding of a decision as a number. `offloading` makes an environment of it,
with a new application each episode that `generator` draws; `gym` has it for Gymnasium.
"""

from mrlato_jax.environment.generator import Applications
from mrlato_jax.environment.offloading import EpisodeState, Observation, Offloading

__all__ = ["Applications", "EpisodeState", "Observation", "Offloading"]
