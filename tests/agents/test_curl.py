"""CURL-SAC: what is tied, what each update moves, and what the freeze does to its state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from configs import curl_dmc
from seer_jax import replay
from seer_jax.agents import augment, base, curl_networks
from seer_jax.agents import curl as curl_sac

ACTION_SPEC = specs.BoundedArray((2,), np.float32, -1, 1)
SIZE, CROP = 34, 30
STAGES = ("conv1", "conv2", "dense")


def small_config(**changes):
    """A small run's, with an encoder of matrix products, which compile ten times as fast as convolutions."""
    config = curl_dmc.get_config().unlock()
    config.seer.freeze_through = "dense"
    small = {
        "env.image_size": SIZE,
        "env.crop_size": CROP,
        "agent.hidden": 8,
        "agent.latent_size": 6,
        "agent.random_steps": 10,
        "encoder.name": "data_efficient",
    }
    config.update_from_flattened_dict(small | {name.replace("__", "."): value for name, value in changes.items()})
    return config


@functools.cache
def make(**changes):
    """Returns an agent, its compiled updates, and a state whose parameters differ from their targets."""
    agent = curl_sac.make_agent(small_config(**changes), ACTION_SPEC)
    state = jax.jit(agent.init)(jax.random.PRNGKey(0))
    nudged = jax.tree.map(lambda x: x * 1.01 + 0.01, state.params)
    return (
        agent,
        [jax.jit(u) for u in agent.updates],
        [jax.jit(u) for u in agent.latent_updates],
        state.replace(params=nudged),
    )


def random_batch(size=8, seed=0, pixels=SIZE):
    rng = np.random.default_rng(seed)
    stacks = rng.integers(0, 255, (2, size, pixels, pixels, 9)).astype(np.uint8)
    return replay.Batch(
        obs=jnp.asarray(stacks[0]),
        action=jnp.asarray(rng.uniform(-1, 1, (size, 2)), jnp.float32),
        reward=jnp.asarray(rng.normal(size=size), jnp.float32),
        discount=jnp.asarray(rng.choice([0.0, 0.9], size), jnp.float32),
        next_obs=jnp.asarray(stacks[1]),
        weight=jnp.asarray(rng.uniform(0.1, 1, size), jnp.float32),
        start=jnp.arange(size),
    )


def latent_batch(agent, params, batch):
    encode = jax.jit(lambda obs: agent.encode(params, agent.view(obs)))
    return batch.replace(obs=encode(batch.obs), next_obs=encode(batch.next_obs))


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def close(a, b, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), a, b)


def test_a_latent_is_the_critics_and_the_actors():
    agent, _, _, state = make()
    obs = random_batch().obs
    latents = agent.encode(state.params, agent.view(obs))
    assert latents.shape == (8, 2, 6)
    np.testing.assert_allclose(latents.mean(axis=-1), 0.01, atol=1e-2)  # normalised, apart from the nudged bias
    moved = jax.tree.map(lambda x: x + 1.0, state.params["actor_encoder"])
    other = agent.encode(state.params | {"actor_encoder": moved}, agent.view(obs))
    np.testing.assert_array_equal(other[:, curl_networks.CRITIC], latents[:, curl_networks.CRITIC])
    assert not np.allclose(other[:, curl_networks.ACTOR], latents[:, curl_networks.ACTOR])


def test_convolutions_are_tied_and_get_no_gradient_from_the_actor():
    _, (everything, critic_only), _, state = make()
    batch = random_batch()
    with_actor, _, info = everything(state, batch)
    without, _, _ = critic_only(state, batch)
    # One set of convolutions, which moves alike whether the actor learns or not; and nothing of the actor's without.
    assert set(state.params["encoder"]) == set(STAGES)
    assert set(state.params["actor_encoder"]) == {"dense"}
    close(with_actor.params["encoder"], without.params["encoder"], rtol=1e-5, atol=1e-7)
    close(with_actor.params["critic"], without.params["critic"], rtol=1e-5, atol=1e-7)
    for part in ("actor", "actor_encoder", "log_temperature"):
        assert not equal(with_actor.params[part], state.params[part])
        assert equal(without.params[part], state.params[part])
    assert not equal(with_actor.params["encoder"], state.params["encoder"])
    assert {"actor_loss", "entropy", "temperature"} <= set(info)


def test_targets_move_at_their_own_rates_at_every_second_update():
    _, (everything, critic_only), _, state = make()
    batch = random_batch()
    moved, _, _ = everything(state, batch)
    for part, tau in (("encoder", 0.05), ("critic", 0.01)):
        expected = jax.tree.map(
            lambda new, old, t=tau: t * new + (1 - t) * old, moved.params[part], state.target_params[part]
        )
        close(moved.target_params[part], expected, rtol=1e-5, atol=1e-6)
    still, _, _ = critic_only(state, batch)
    assert equal(still.target_params, state.target_params)


def test_contrast_trains_encoder_and_product_but_not_the_critic():
    """With weights of zero the Q-loss has no gradient, and what remains is the contrastive loss."""
    _, (_, critic_only), _, state = make()
    batch = random_batch()
    moved, _, info = critic_only(state, batch.replace(weight=jnp.zeros(8)))
    assert float(info["critic_loss"]) == 0.0
    assert float(info["contrast_loss"]) > 0.0
    assert not equal(moved.params["encoder"]["conv1"], state.params["encoder"]["conv1"])
    assert not equal(moved.params["contrast"], state.params["contrast"])
    assert equal(moved.params["critic"], state.params["critic"])


def test_anchor_and_positive_are_different_crops():
    agent, _, _, _ = make()
    batch = random_batch()
    seen = agent.updates[0]._see(jax.random.PRNGKey(3), batch.replace(next_obs=batch.obs))
    crops = [np.asarray(crop) for crop in seen]
    assert len({crop.tobytes() for crop in crops}) == 3  # anchor, bootstrap and positive, of the same images
    assert all(crop.shape == (8, CROP, CROP, 9) for crop in crops)


def frozen_state(**changes):
    agent, _, _, state = make(**changes)
    return agent, agent.freeze(state)


def test_latent_update_is_the_full_update_with_a_stopped_encoder():
    agent, updates, latent_updates, state = make(env__crop_size=SIZE)  # one crop only: the image
    tied = state.replace(target_params=state.target_params | {"encoder": state.params["encoder"]})
    frozen = agent.freeze(tied)
    stopped = tied.replace(opt_state=frozen.opt_state)
    batch = random_batch()
    for update, latent_update in zip(updates, latent_updates, strict=True):
        full, full_losses, _ = update(stopped, batch)
        latent, latent_losses, _ = latent_update(frozen, latent_batch(agent, tied.params, batch))
        np.testing.assert_allclose(latent_losses, full_losses, rtol=1e-4)
        for part in ("critic", "actor", "log_temperature"):
            close(latent.params[part], full.params[part], rtol=1e-3, atol=2e-5)
        close(latent.target_params["critic"], full.target_params["critic"], rtol=1e-4, atol=1e-6)


def test_the_actor_learns_on_latents_of_the_new_encoder(monkeypatch):
    seen_by_actor = []

    def update_actor(self, state, features, key):
        seen_by_actor.append((state, features))
        return state, {}

    monkeypatch.setattr(curl_sac._Update, "_update_actor", update_actor)
    agent, _, _, state = make()
    update, batch = agent.updates[0], random_batch()
    update(state, batch)
    ((new, features),) = seen_by_actor
    k_views, _, _ = jax.random.split(base.update_keys(state)[1], 3)
    crops = update._see(k_views, batch).obs
    np.testing.assert_allclose(features, update.networks.features(new.params, crops), rtol=1e-5, atol=1e-6)
    assert not np.allclose(features, update.networks.features(state.params, crops), rtol=1e-5, atol=1e-6)


def test_encoder_is_bitwise_constant_after_the_freeze_and_contrast_is_over():
    agent, state = frozen_state()
    _, _, latent_updates, _ = make()
    batch, start = latent_batch(agent, state.params, random_batch()), state
    for i in range(20):
        state, _, info = latent_updates[i % 2](state, batch)
    assert "contrast_loss" not in info
    for part in ("encoder", "actor_encoder", "contrast"):
        assert equal(state.params[part], start.params[part])
        assert part not in state.opt_state
    for part in ("critic", "actor", "log_temperature"):
        assert not equal(state.params[part], start.params[part])
    assert set(state.target_params) == {"tail", "critic"}


def test_freeze_keeps_the_heads_moments_counts_and_targets():
    agent, (everything, _), _, state = make()
    state, _, _ = everything(state, random_batch())
    frozen = agent.freeze(state)
    for part in ("critic", "actor", "log_temperature"):
        assert equal(frozen.opt_state[part], state.opt_state[part])
    assert equal(frozen.target_params["critic"], state.target_params["critic"])
    synced = curl_sac.make_agent(small_config(seer__sync_target_heads=True), ACTION_SPEC).freeze(state)
    assert equal(synced.target_params["critic"], state.params["critic"])


@pytest.mark.parametrize("stage", ["conv1", "dense"])
def test_any_stage_can_be_the_last_that_freezes(stage):
    changes = {"seer__freeze_through": stage}
    agent, (everything, _), (latent_everything, _), state = make(**changes)
    num_latents, size = curl_sac.latent_shape(small_config(**changes))
    assert (num_latents, size) == {
        "conv1": (1, 6 * 6 * 32),
        "dense": (2, 6),
    }[stage]
    frozen_stages = STAGES[: STAGES.index(stage) + 1]
    assert set(state.params["encoder"]) == set(frozen_stages)
    assert set(state.params["tail"]) == set(STAGES) - set(frozen_stages)
    state, _, _ = everything(state, random_batch())
    frozen = agent.freeze(state)
    batch = latent_batch(agent, frozen.params, random_batch())
    assert batch.obs.shape == (8, num_latents, size)
    after, _, info = latent_everything(frozen, batch)
    assert np.isfinite(info["loss"])
    assert equal(after.params["encoder"], frozen.params["encoder"])
    for name in after.params["tail"]:
        assert not equal(after.params["tail"][name], frozen.params["tail"][name])
    for name in after.params["actor_tail"]:
        assert not equal(after.params["actor_tail"][name], frozen.params["actor_tail"][name])


def test_cutting_elsewhere_does_not_change_the_function():
    """The same parameters, cut before and after the last convolution, act and learn alike."""
    agent, (_, critic_only), _, state = make(env__crop_size=SIZE)
    other_agent, (_, other_critic_only), _, other = make(env__crop_size=SIZE, seer__freeze_through="conv1")

    def recut(params):
        """Moves the stages after the first from the frozen parts to those that train on."""
        stages = params["encoder"]
        cut = {"encoder": {"conv1": stages["conv1"]}, "tail": {name: stages[name] for name in STAGES[1:]}}
        actor = {"actor_encoder": {}, "actor_tail": params["actor_encoder"]} if "actor_encoder" in params else {}
        return params | cut | actor

    other = other.replace(params=recut(state.params), target_params=recut(state.target_params))
    obs = random_batch().obs
    actions = [
        a.act_eval(s.params, a.encode(s.params, a.view(obs)), None) for a, s in ((agent, state), (other_agent, other))
    ]
    np.testing.assert_allclose(*actions, atol=1e-5)
    one, losses, info = critic_only(state, random_batch())
    two, other_losses, other_info = other_critic_only(other, random_batch())
    close((other_losses, other_info), (losses, info), rtol=1e-4, atol=1e-5)
    for stage in STAGES[1:]:
        close(two.params["tail"][stage], one.params["encoder"][stage], rtol=1e-3, atol=1e-4)


def test_first_steps_are_random_and_later_ones_the_policys():
    agent, _, _, state = make()
    latents = jnp.zeros((4, 2, 6))
    act = jax.jit(agent.act)
    key = jax.random.PRNGKey(5)
    constant = jax.tree.map(jnp.zeros_like, state.params["actor"])
    # Four environments and ten random steps: steps 0, 1 and 2.
    assert equal(act(state.params, latents, key, 2), act(state.params | {"actor": constant}, latents, key, 2))
    assert not equal(act(state.params, latents, key, 3), act(state.params | {"actor": constant}, latents, key, 3))
    random = np.stack([act(state.params, latents, jax.random.PRNGKey(i), 0) for i in range(50)])
    assert random.min() < -0.9
    assert random.max() > 0.9


def test_evaluation_takes_the_squashed_mean():
    agent, _, _, state = make()
    latents = jax.random.normal(jax.random.PRNGKey(1), (4, 2, 6))
    policy = curl_networks.Networks(small_config(), 2).policy.apply(
        state.params["actor"], latents[:, curl_networks.ACTOR]
    )
    action = agent.act_eval(state.params, latents, None)
    np.testing.assert_allclose(action, np.tanh(policy.distribution.loc), rtol=1e-5, atol=1e-6)


def test_stored_copies_are_encodings_of_crops_and_acting_uses_the_centre():
    agent, _, _, state = make()
    obs = random_batch(3).obs
    key = jax.random.PRNGKey(7)
    acting, stored = base.latents_to_act_and_store(agent, state.params, obs, key)
    assert stored.shape == (3, 4, 2, 6)
    np.testing.assert_allclose(acting, agent.encode(state.params, augment.centre_crop(obs, CROP)), atol=1e-5)
    np.testing.assert_allclose(stored, base.latents_to_store(agent, state.params, obs, key), atol=1e-5)
    crops = [agent.encode(state.params, obs[:, t : t + CROP, s : s + CROP]) for t in range(5) for s in range(5)]
    for row in range(3):
        for copy in range(4):
            assert min(np.abs(stored[row, copy] - crop[row]).max() for crop in crops) < 1e-4
    assert not np.allclose(stored[:, 0], stored[:, 1])


def test_the_contrastive_step_does_not_depend_on_the_size_of_rewards():
    _, (_, critic_only), _, state = make()
    batch = random_batch()
    small, _, _ = critic_only(state, batch)
    large, _, _ = critic_only(state, batch.replace(reward=1e3 * batch.reward))
    close(large.opt_state["contrast"], small.opt_state["contrast"], rtol=1e-5, atol=1e-8)
    assert not equal(large.opt_state["encoder"], small.opt_state["encoder"])


def test_latent_updates_learn_which_action_pays():
    """One-step episodes that pay for an action read off the latent."""
    agent, _, updates, state = make(agent__hidden=64)
    state = agent.freeze(state)
    rng = np.random.default_rng(0)
    zeros, ones, start = jnp.zeros(64), jnp.ones(64), jnp.arange(64)

    def draw():
        latent = np.repeat(rng.normal(size=(64, 1, 6)), 2, axis=1).astype(np.float32)
        return latent, 0.7 * np.tanh(latent[:, 0, :2])

    for i in range(1000):
        latent, best = draw()
        action = rng.uniform(-1, 1, (64, 2)).astype(np.float32)
        reward = -5 * np.sum((action - best) ** 2, axis=1)
        batch = replay.Batch(latent, action, reward, zeros, latent, ones, start)
        state, _, _ = updates[i % 2](state, batch)
    latent, best = draw()
    error = np.abs(agent.act_eval(state.params, latent, None) - best).mean()
    assert error < 0.12, error
