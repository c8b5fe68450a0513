"""What the freeze does to the state of every algorithm, and the frozen phase after it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.agents import base
from seer_jax.agents.registry import AGENTS
from tests.helpers import agents

# The first and the last stage that may be the last to freeze.
LAST_FROZEN = [("rainbow", "conv1"), ("rainbow", "conv2"), ("curl_sac", "conv1"), ("curl_sac", "dense")]
TRAINED_PARTS = {
    "rainbow": {"tail", "heads"},
    "curl_sac": {"tail", "critic", "actor_tail", "actor", "log_temperature"},
}
TARGET_PARTS = {"rainbow": {"tail", "heads"}, "curl_sac": {"tail", "critic"}}
every_stage = pytest.mark.parametrize(("name", "stage"), LAST_FROZEN)
every_algorithm = pytest.mark.parametrize("name", ["rainbow", "curl_sac"])


def make(name, stage, **changes):
    """Returns an agent whose crops are whole images: what it stores does not depend on chance."""
    size = agents.small_config(name).env.image_size
    return agents.make(name, env__crop_size=size, seer__freeze_through=stage, **changes)


def frozen_parts(tree):
    return {part: value for part, value in tree.items() if part in base.ENCODER_PARTS}


def trained_parts(tree):
    return {part: value for part, value in tree.items() if part not in base.ENCODER_PARTS}


def test_every_registered_algorithm_is_tested_at_its_first_and_last_stage():
    stages = {name: AGENTS[name].stage_names(agents.small_config(name).encoder) for name in AGENTS}
    assert [(name, stage) for name in AGENTS for stage in (stages[name][0], stages[name][-1])] == LAST_FROZEN


@every_stage
def test_latents_have_the_shape_that_the_algorithm_gives(name, stage):
    small = make(name, stage)
    obs = agents.random_batch(name).obs
    latents = jax.eval_shape(small.agent.encode, small.state.params, jax.eval_shape(small.agent.view, obs))
    expected = {
        ("rainbow", "conv1"): (1, 8 * 8 * 32),
        ("rainbow", "conv2"): (1, 64),
        ("curl_sac", "conv1"): (1, 6 * 6 * 32),
        ("curl_sac", "dense"): (2, 6),
    }[name, stage]
    assert AGENTS[name].latent_shape(small.config) == expected
    assert latents.shape == (8, *expected)
    assert latents.dtype == jnp.float32


@every_stage
def test_stages_up_to_the_last_frozen_one_are_frozen_and_the_others_trained(name, stage):
    small = make(name, stage)
    stages, params = AGENTS[name].stage_names(small.config.encoder), small.state.params
    count = stages.index(stage) + 1
    assert set(params["encoder"]) == set(stages[:count])
    assert set(params["tail"]) == set(stages[count:])


@every_stage
def test_freeze_keeps_parameters_and_the_state_of_all_that_is_trained_on(name, stage):
    small = make(name, stage)
    state, _, _ = small.full_updates[0](small.state, agents.random_batch(name))
    frozen = small.agent.freeze(state)
    assert agents.equal(frozen.params, state.params)
    for kept, before, parts in (
        (frozen.opt_state, state.opt_state, TRAINED_PARTS[name]),
        (frozen.target_params, state.target_params, TARGET_PARTS[name]),
    ):
        assert set(kept) == parts
        assert agents.equal(kept, {part: before[part] for part in parts})
    assert frozen.updates == state.updates == 1


@every_algorithm
def test_freeze_with_sync_target_heads_sets_targets_to_heads(name):
    stage = AGENTS[name].stage_names(agents.small_config(name).encoder)[-1]
    synced = make(name, stage, seer__sync_target_heads=True)
    frozen = synced.agent.freeze(synced.state)
    assert agents.equal(frozen.target_params, {part: frozen.params[part] for part in frozen.target_params})
    assert not agents.equal(frozen.target_params, {p: synced.state.target_params[p] for p in frozen.target_params})


@every_stage
@pytest.mark.numeric
def test_frozen_update_equals_full_update_with_a_stopped_encoder(name, stage):
    small = make(name, stage)
    frozen = small.agent.freeze(small.state)
    # No optimizer steps the encoder, and its target is the encoder itself.
    targets = small.state.target_params | {"encoder": small.state.params["encoder"]}
    stopped = small.state.replace(opt_state=frozen.opt_state, target_params=targets)
    batch = agents.random_batch(name)
    latents = agents.encoded(small.agent, small.state.params, batch)
    for update, frozen_update in zip(small.full_updates, small.frozen_updates, strict=True):
        full, full_losses, full_info = update(stopped, batch)
        latent, losses, info = frozen_update(frozen, latents)
        agents.assert_close((losses, info), (full_losses, full_info), rtol=1e-4, atol=1e-5)
        agents.assert_gradients_equal(agents.gradients(frozen, latent), agents.gradients(stopped, full))
        agents.assert_close(latent.params, full.params, rtol=1e-4, atol=1e-6)
        targets = {part: full.target_params[part] for part in latent.target_params}
        agents.assert_close(latent.target_params, targets, rtol=1e-4, atol=1e-6)


@every_stage
def test_frozen_stages_are_bitwise_constant_after_the_freeze_and_all_else_moves(name, stage):
    small = make(name, stage)
    state = start = small.agent.freeze(small.state)
    batch = agents.encoded(small.agent, state.params, agents.random_batch(name))
    for i in range(100):
        state, _, info = small.frozen_updates[i % len(small.frozen_updates)](state, batch)
    assert np.isfinite(info["loss"])
    for part in set(state.params) - TRAINED_PARTS[name]:
        assert agents.equal(state.params[part], start.params[part]), part
    for part in TRAINED_PARTS[name]:
        for (path, after), before in zip(
            jax.tree_util.tree_leaves_with_path(state.params[part]), jax.tree.leaves(start.params[part]), strict=True
        ):
            assert not np.array_equal(after, before), (part, path)


@every_stage
def test_frozen_updates_run_no_frozen_stage(name, stage):
    """With parameters that are not finite, any use of a frozen stage would show in what the updates return."""
    small = make(name, stage)
    frozen = small.agent.freeze(small.state)
    broken = {part: jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), p) for part, p in frozen.params.items()}
    broken = frozen.replace(params=trained_parts(frozen.params) | frozen_parts(broken))
    batch = agents.encoded(small.agent, frozen.params, agents.random_batch(name))
    for update in small.frozen_updates:
        (after, *results), (broken_after, *broken_results) = update(frozen, batch), update(broken, batch)
        assert agents.equal(broken_results, results)
        assert agents.equal(
            broken_after.replace(params=trained_parts(broken_after.params)),
            after.replace(params=trained_parts(after.params)),
        )
