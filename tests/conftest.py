"""Settings of the whole suite."""

import jax

# Most of the suite's time is compilation of small programs: trade their speed for it.
jax.config.update("jax_disable_most_optimizations", True)
