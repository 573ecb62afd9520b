"""Set before any test module imports the package."""

import hypothesis
import jax

# An array that silently gains an axis is a mixed-up batch: make it an error everywhere.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Most of the suite's time is compilation, and what is compiled here is small.
jax.config.update("jax_disable_most_optimizations", True)

# Examples are not timed: the first one of a shape compiles.
hypothesis.settings.register_profile("mrlato_jax", deadline=None)
hypothesis.settings.load_profile("mrlato_jax")
