"""The state of a run: begun, saved and restored."""

import jax
import numpy as np
import pytest

from seer_jax import files, replay
from seer_jax.run import assembly, checkpoint, state
from seer_jax.run.resolve import resolve
from tests.helpers import fake_env
from tests.helpers.runs import tiny_config


def begin(encoder=None, **changes):
    config = resolve(tiny_config(**changes))
    env = fake_env.make_env(config, training=True)
    parts = assembly.assemble(config, env.action_spec)
    k_agent, k_actor = jax.random.split(jax.random.PRNGKey(0))
    return parts, state.begin(parts, env.reset(), encoder, k_agent=k_agent, k_actor=k_actor)


def test_run_begins_in_the_full_phase_with_an_empty_ring_of_frames():
    parts, begun = begin()
    assert begun.progress.phase == "full"
    assert begun.progress.env_steps == begun.progress.updates == begun.progress.rows == 0
    assert replay.size(parts.full.ring_spec, begun.ring) == 0
    assert jax.eval_shape(lambda: begun.ring) == parts.full.ring
    assert not begun.actor.stack.any()
    assert set(begun.train.opt_state) == set(begun.train.params)


def test_run_that_freezes_at_once_begins_with_the_given_encoder_and_without_its_optimizer_state():
    _, other = begin(seed=1)
    encoder = {part: jax.tree.map(lambda x: x + 1, other.train.params[part]) for part in ("encoder", "tail")}
    parts, begun = begin(encoder, seer__freeze_step=0, seer__init_from="runs/other")
    assert begun.progress.phase == "frozen"
    assert jax.eval_shape(lambda: begun.ring) == parts.frozen.ring
    jax.tree.map(np.testing.assert_array_equal, begun.train.params["encoder"], encoder["encoder"])
    assert set(begun.train.opt_state) == {"tail", "heads"}


@pytest.mark.parametrize("phase", ["full", "frozen"])
def test_restored_state_equals_the_saved_one(tmp_path, phase):
    changes = {} if phase == "full" else {"seer__freeze_step": 0, "seer__init_from": "runs/other"}
    parts, begun = begin(None, **changes)
    now = begun.progress
    now.env_steps, now.updates, now.rows, now.pool = 12, 3, 14, 1
    now.recent.append(2.5)
    state.save(begun, parts, tmp_path, metrics_bytes=123)
    saved = checkpoint.newest(tmp_path / checkpoint.DIRECTORY, pytest.fail)
    assert saved.directory.name == "000001"
    assert saved.progress["metrics_bytes"] == 123
    restored = state.restore(parts, saved)
    before, after = begun.progress.to_json(), restored.progress.to_json()
    assert after | {"clock": None} == before | {"clock": None}
    for name in ("train", "actor", "ring"):
        jax.tree.map(np.testing.assert_array_equal, getattr(restored, name), getattr(begun, name))


def test_state_of_another_agent_is_refused(tmp_path):
    parts, begun = begin()
    state.save(begun, parts, tmp_path, metrics_bytes=0)
    saved = checkpoint.newest(tmp_path / checkpoint.DIRECTORY, pytest.fail)
    other, _ = begin(agent__hidden=4)
    with pytest.raises(files.DamagedFileError, match="the saved state does not fit"):
        state.restore(other, saved)
