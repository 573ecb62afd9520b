"""MRLCO (Wang et al., IEEE TPDS 2021): meta-learning as in MRLATO, with one attention head.

Its public code has differences that are not part of the method and are not copied: the simulator has no download queue,
and tasks without parents all upload at once; the moments of the inner Adam persist across tasks; and the outer Adam
takes one step per task, in sequence.
"""

from mrlato_jax.config import NetworkConfig
from mrlato_jax.methods.learned import LearnedMethod

METHOD = LearnedMethod("mrlco", network=NetworkConfig(heads=1))
