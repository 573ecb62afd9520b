"""MRLATO: the paper's method, with Table I's values."""

from mrlato_jax.methods.learned import LearnedMethod

METHOD = LearnedMethod("mrlato")
