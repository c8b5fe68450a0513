"""The state of a run: begun, saved and restored."""

import types

import jax
import numpy as np
import pytest

from seer_jax import files, replay
from seer_jax.run import assembly, checkpoint, state
from seer_jax.run.progress import Progress
from seer_jax.run.resolve import resolve
from tests.helpers import fake_env
from tests.helpers.runs import tiny_config


def begin(encoder=None, **changes):
    config = resolve(tiny_config(**changes))
    env = fake_env.make_env(config, training=True)
    parts = assembly.assemble(config, env.action_spec)
    return parts, state.begin(parts, encoder)


def save(begun, parts, directory, progress=None):
    """Writes a checkpoint as a run does, and reads it; nothing else of the run exists."""
    progress = progress or Progress(phase=begun.phase)
    saved = progress.to_json() | {"metrics_bytes": 123}
    seed = types.SimpleNamespace(run_dir=directory, progress=progress, to_json=lambda: saved)
    assert state.save(begun, parts, {0: seed}) == {0: None}
    return checkpoint.newest(directory / checkpoint.DIRECTORY, pytest.fail)


def test_run_begins_in_the_full_phase_with_an_empty_ring_of_frames():
    parts, begun = begin()
    assert begun.phase == "full"
    assert replay.size(parts.full.ring_spec, begun.ring) == 0
    assert jax.eval_shape(lambda: begun.ring) == parts.full.ring
    assert not begun.actor.stack.any()
    assert set(begun.train.opt_state) == set(begun.train.params)


def test_run_that_freezes_at_once_begins_with_the_given_encoder_and_without_its_optimizer_state():
    _, other = begin(seed=1)
    encoder = {part: jax.tree.map(lambda x: x + 1, other.train.params[part]) for part in ("encoder", "tail")}
    parts, begun = begin(encoder, seer__freeze_step=0, seer__init_from="runs/other")
    assert begun.phase == "frozen"
    assert jax.eval_shape(lambda: begun.ring) == parts.frozen.ring
    jax.tree.map(np.testing.assert_array_equal, begun.train.params["encoder"], encoder["encoder"])
    assert set(begun.train.opt_state) == {"tail", "heads"}


@pytest.mark.parametrize("phase", ["full", "frozen"])
def test_restored_state_equals_the_saved_one(tmp_path, phase):
    changes = {} if phase == "full" else {"seer__freeze_step": 0, "seer__init_from": "runs/other"}
    parts, begun = begin(None, **changes)
    now = Progress(begun.phase, env_steps=12, updates=3, rows=14, pool=1)
    now.recent.append(2.5)
    saved = save(begun, parts, tmp_path, now)
    assert saved.directory.name == "000001"
    assert saved.progress["metrics_bytes"] == 123
    after = Progress.from_json(saved.progress).to_json()
    assert after | {"clock": None} == now.to_json() | {"clock": None}
    restored = state.restore(parts, [saved])
    assert restored.phase == begun.phase
    for name in ("train", "actor", "ring"):
        jax.tree.map(np.testing.assert_array_equal, getattr(restored, name), getattr(begun, name))


def test_state_of_another_agent_is_refused(tmp_path):
    parts, begun = begin()
    saved = save(begun, parts, tmp_path)
    other, _ = begin(agent__hidden=4)
    with pytest.raises(files.DamagedFileError, match="the saved state does not fit"):
        state.restore(other, [saved])
