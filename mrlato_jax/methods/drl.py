"""DRL (paper Table II): one policy with one attention head, pre-trained on all training sets together."""

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.methods.learned import LearnedMethod

METHOD = LearnedMethod("drl", network=NetworkConfig(heads=1), learning=LearningConfig(meta_update="joint"))
