"""How compilers of accelerators are asked for programs in tests."""

import contextlib

import jax

_EFFORT = "jax_exec_time_optimization_effort"


@contextlib.contextmanager
def lowest_effort():
    """Compiles fast instead of well, up to jax 0.11; later ones have levels, of which low ones need more memory."""
    if not hasattr(jax.config, _EFFORT):
        yield
        return
    before = getattr(jax.config, _EFFORT)
    jax.config.update(_EFFORT, -1.0)
    yield
    jax.config.update(_EFFORT, before)
