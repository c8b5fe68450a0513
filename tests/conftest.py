"""Settings of the whole suite, most of whose time is compilation of small programs."""

import os
import tempfile

import jax
import pytest

from seer_jax.envs import registry
from seer_jax.trainer import Trainer
from tests import fake_env

# Compile fast rather than well, and each program once in a session, whose workers share what was compiled.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="seer_jax-tests-")
    os.environ["SEER_JAX_TESTS_CACHE"] = _CACHE.name

# The official DeepMind Control package decides at its import what it renders with.
os.environ.setdefault("MUJOCO_GL", "egl")

jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_compilation_cache_dir", os.environ["SEER_JAX_TESTS_CACHE"])


@pytest.fixture
def fake_envs(monkeypatch):
    """Replaces the games by `FakeEnv`s and returns those that were made; steps may move no array by accident."""
    made, vector_step = [], Trainer._vector_step

    def guarded_step(trainer, **arguments):
        with jax.transfer_guard("disallow"):
            vector_step(trainer, **arguments)

    def make(config, **arguments):
        made.append(fake_env.make_env(config, **arguments))
        return made[-1]

    monkeypatch.setattr(registry, "make_env", make)
    monkeypatch.setattr(Trainer, "_vector_step", guarded_step)
    return made
