"""Settings of the whole suite, most of whose time is compilation of small programs."""

import os
import tempfile

import jax

# The official DeepMind Control package decides at its import what it renders with.
os.environ.setdefault("MUJOCO_GL", "egl")

# Compile fast rather than well, and each program once in a session.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
_CACHE = tempfile.TemporaryDirectory(prefix="seer_jax-tests-")
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
