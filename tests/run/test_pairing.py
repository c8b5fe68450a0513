"""A run depends on nothing that lies ahead of it: runs of one seed are the same run until a difference acts."""

import functools
import json

import jax
import numpy as np
import pytest

from seer_jax import train
from seer_jax.run import checkpoint
from tests.helpers.runs import compiled_once, fake_games, tiny_config, tiny_control_config, untimed

LOG_EVERY, STEPS = 40, 120  # agent steps that are compared: of the full phase, before any ring wraps
_SIZES = ("replay_bytes", "replay_capacity")  # which a difference in capacity changes by definition
SETTINGS = {
    "rainbow": tiny_config,
    "rainbow prioritized": functools.partial(tiny_config, replay__prioritized=True, replay__importance_steps=200),
    "curl": functools.partial(tiny_control_config, total_steps=400, seer__freeze_step=200, replay__capacity=300),
}
DIFFERENCES = {
    "larger ring, later freeze, longer run": {
        "replay.capacity": 3_000,
        "total_steps": 2_000,
        "seer.freeze_step": 1_500,
    },
    "no freeze": {"seer.enabled": False},
    "other evaluations": {"eval_every": 50, "eval_episodes": 1},
}


@pytest.fixture(scope="module")
def run_begin(tmp_path_factory):
    """Returns a function that gives the metric lines and the training state of the first `steps` of a run."""
    done = {}

    def run(setting, steps=STEPS, **changes):
        key = json.dumps((setting, steps, changes))
        if key not in done:
            directory = tmp_path_factory.mktemp("run") / "run"
            config = SETTINGS[setting](checkpoint_every=0, log_every=LOG_EVERY)
            config.update_from_flattened_dict(changes)
            seen = []
            with fake_games(), compiled_once(), pytest.raises(train.RunStopped):
                train.run(config, directory, receivers=[seen.append], stop=lambda: _logged(seen) == steps // LOG_EVERY)
            lines = [line for line in untimed(directory) if line["kind"] in ("train", "episode")]
            lines = [{name: value for name, value in line.items() if name not in _SIZES} for line in lines]
            trees, _ = checkpoint.load_newest_state(directory / checkpoint.DIRECTORY)
            done[key] = lines, trees["train"]
        return done[key]

    return run


def _logged(records):
    return sum(record["kind"] == "train" for record in records)


@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_runs_are_equal_until_a_difference_acts(run_begin, setting, difference):
    lines, state = run_begin(setting)
    other_lines, other_state = run_begin(setting, **DIFFERENCES[difference])
    assert _logged(lines) == STEPS // LOG_EVERY
    assert lines[-1]["updates"] > 30
    assert lines == other_lines
    jax.tree.map(np.testing.assert_array_equal, state, other_state)


def test_runs_of_other_lengths_are_equal_after_the_freeze(run_begin):
    """Their latent rings have different sizes."""
    lines, state = run_begin("rainbow prioritized", steps=280)
    other_lines, other_state = run_begin("rainbow prioritized", steps=280, total_steps=900)
    assert lines[-1]["phase"] == "frozen"
    assert lines == other_lines
    jax.tree.map(np.testing.assert_array_equal, state, other_state)


def test_runs_of_other_seeds_differ(run_begin):
    (lines, _), (other_lines, _) = run_begin("rainbow"), run_begin("rainbow", seed=1)
    assert lines != other_lines
