"""Several seeds in one process: each is what a run of this seed alone is."""

import functools

import jax
import numpy as np
import pytest

from seer_jax import train
from seer_jax.run import checkpoint
from tests.helpers.runs import tiny_config, tiny_control_config, untimed


def state_of(directory):
    return checkpoint.load_newest_state(directory / checkpoint.DIRECTORY)[0]


def assert_equal_runs(found, expected, *, exact):
    """The directories hold the same records, times aside, and the same training state.

    Unless each has a device of its own, several seeds round in another way than one.
    """
    for one, other in zip(untimed(found), untimed(expected), strict=True):
        if not exact:
            other.pop("params_sha256", one.pop("params_sha256", None))
            other = {k: pytest.approx(v, rel=1e-3, abs=1e-4) if isinstance(v, float) else v for k, v in other.items()}
        assert one == other
    close = functools.partial(np.testing.assert_allclose, rtol=0 if exact else 1e-3, atol=0 if exact else 1e-4)
    jax.tree.map(close, state_of(found), state_of(expected))


@pytest.mark.parametrize("make", [tiny_config, tiny_control_config])
def test_each_seed_of_a_run_equals_its_run_alone(fake_envs, tmp_path, make):
    """Their episodes have different lengths, so that they wait for each other at each evaluation and checkpoint."""
    together = tmp_path / "together"
    train.run(make(seed=5, num_seeds=3), together)
    for seed in (5, 6, 7):
        train.run(make(seed=seed), tmp_path / f"alone-{seed}")
        assert_equal_runs(together / f"seed-{seed}", tmp_path / f"alone-{seed}", exact=False)
