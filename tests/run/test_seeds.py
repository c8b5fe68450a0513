"""Several seeds in one process: each is what a run of this seed alone is."""

import functools

import jax
import numpy as np
import pytest

from seer_jax import train
from seer_jax.run import checkpoint
from tests.helpers.runs import compiled_once, records, tiny_config, tiny_control_config, untimed

# More updates after the freeze than the seeds have steps, and resets of the heads in both phases.
LEARNING = {
    "seer__replay_ratio": 1.5,
    "agent__reset_heads_every": 20,
    "seer__reset_heads_every": 30,
    "agent__reset_keep": 0.5,
}


def state_of(directory):
    return checkpoint.load_newest_state(directory / checkpoint.DIRECTORY)[0]


def assert_equal_runs(found, expected, *, tolerance=0.0):
    """The directories hold the same records, times aside, and the same training state.

    Unless each has a device of its own, several seeds round in another way than one.
    """
    for one, other in zip(untimed(found), untimed(expected), strict=True):
        if tolerance:
            other.pop("params_sha256", one.pop("params_sha256", None))
            other = {k: approximately(v, 10 * tolerance) for k, v in other.items()}
        assert one == other
    close = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(close, state_of(found), state_of(expected))


def approximately(value, tolerance):
    return pytest.approx(value, rel=tolerance, abs=tolerance) if isinstance(value, float) else value


# Adam with CURL's epsilon steps by the learning rate of 1e-3 where a gradient consists of rounding errors.
@pytest.mark.parametrize(("make", "tolerance"), [(tiny_config, 1e-5), (tiny_control_config, 2e-3)])
def test_each_seed_of_a_run_equals_its_run_alone(fake_envs, tmp_path, make, tolerance):
    """Their episodes have different lengths, so that they wait for each other at each evaluation and checkpoint."""
    together = tmp_path / "together"
    with compiled_once():
        train.run(make(seed=5, num_seeds=2, **LEARNING), together)
        for seed in (5, 6):
            train.run(make(seed=seed, **LEARNING), tmp_path / f"alone-{seed}")
            assert [line["kind"] for line in records(together / f"seed-{seed}")].count("reset") >= 2
            assert_equal_runs(together / f"seed-{seed}", tmp_path / f"alone-{seed}", tolerance=tolerance)
