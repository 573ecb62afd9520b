"""Offloading one DAG as a decision process: actions, features, reward, `reset` and `step`.

`process` has the transitions, `reward` their rewards, `features` the inputs of a policy, `rules` the quick rules that
complete a plan, and `actions` the encoding of a decision as a number. `offloading` is the environment for reinforcement
learning; `generator` draws its applications, a new one each episode. `gym` is the environment for Gymnasium.
"""

from mrlato_jax.environment.generator import Applications
from mrlato_jax.environment.offloading import EpisodeState, Observation, Offloading

__all__ = ["Applications", "EpisodeState", "Observation", "Offloading"]
