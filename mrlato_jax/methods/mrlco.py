"""MRLCO (Wang et al., IEEE TPDS 2021): meta-learned as MRLATO, with one attention head.

Its public code differs in ways that are no part of the method and not copied: a simulator without a download queue, in
which tasks without parents upload all at once; moments of the inner Adam that outlive their task; one outer Adam step a
task, in sequence.
"""

from mrlato_jax.config import NetworkConfig
from mrlato_jax.methods.learned import LearnedMethod

METHOD = LearnedMethod("mrlco", network=NetworkConfig(heads=1))
