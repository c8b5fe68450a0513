"""CURL-SAC: what is shared, what each update moves, what is stored, and acting."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax import replay
from seer_jax.agents import augment, base, curl, curl_networks
from tests.helpers import agents

CROP = 30
STAGES = ("conv1", "conv2", "dense")

small = functools.partial(agents.make, "curl_sac")
random_batch = functools.partial(agents.random_batch, "curl_sac")


def test_latent_holds_the_critics_and_the_actors():
    agent, state = small().agent, small().state
    obs = random_batch().obs
    encode = jax.jit(lambda params: agent.encode(params, agent.view(obs)))
    latents = encode(state.params)
    assert latents.shape == (8, 2, 6)
    np.testing.assert_allclose(latents.mean(axis=-1), 0.01, atol=1e-2)  # normalised, apart from the bias
    moved = jax.tree.map(lambda x: x + 1.0, state.params["actor_encoder"])
    other = encode(state.params | {"actor_encoder": moved})
    np.testing.assert_array_equal(other[:, curl_networks.CRITIC], latents[:, curl_networks.CRITIC])
    assert not np.allclose(other[:, curl_networks.ACTOR], latents[:, curl_networks.ACTOR])


@pytest.mark.numeric
def test_convolutions_are_shared_and_get_no_gradient_from_the_actor():
    _, _, _, (with_actor, critic_only), _, state = small()
    batch = random_batch()
    both, _, info = with_actor(state, batch)
    critic, _, _ = critic_only(state, batch)
    # One set of convolutions, whose gradients are the same whether the actor learns or not.
    assert set(state.params["encoder"]) == set(STAGES)
    assert set(state.params["actor_encoder"]) == {"dense"}
    for part in ("encoder", "critic", "contrast"):
        of_both, of_critic = (agents.gradients(state, after)[part] for after in (both, critic))
        agents.assert_gradients_equal(of_both, of_critic)
        assert np.any(jax.tree.leaves(of_both)[0])
    # Nothing of the actor learns without it.
    for part in ("actor", "actor_encoder", "log_temperature"):
        assert not agents.equal(both.params[part], state.params[part])
        assert not agents.equal(both.opt_state[part], state.opt_state[part])
        assert agents.equal(critic.params[part], state.params[part])
        assert agents.equal(critic.opt_state[part], state.opt_state[part])
    assert {"actor_loss", "entropy", "temperature"} <= set(info)


@pytest.mark.numeric
def test_targets_move_at_separate_rates_at_every_second_update():
    _, _, _, (with_targets, without), _, state = small()
    batch = random_batch()
    moved, _, _ = with_targets(state, batch)
    for part, tau in (("encoder", 0.05), ("critic", 0.01)):
        expected = jax.tree.map(
            lambda new, old, t=tau: t * new + (1 - t) * old, moved.params[part], state.target_params[part]
        )
        agents.assert_close(moved.target_params[part], expected, rtol=1e-5, atol=1e-6)
    still, _, _ = without(state, batch)
    assert agents.equal(still.target_params, state.target_params)


def test_contrastive_loss_trains_encoder_and_product_but_not_the_critic():
    """With weights of zero the critic loss has no gradient, and what remains is the contrastive loss."""
    _, _, _, (_, critic_only), _, state = small()
    batch = random_batch()
    moved, _, info = critic_only(state, batch.replace(weight=jnp.zeros(8)))
    assert float(info["critic_loss"]) == 0.0
    assert float(info["contrast_loss"]) > 0.0
    assert not agents.equal(moved.params["encoder"]["conv1"], state.params["encoder"]["conv1"])
    assert not agents.equal(moved.params["contrast"], state.params["contrast"])
    assert agents.equal(moved.params["critic"], state.params["critic"])


def test_frozen_phase_has_no_contrastive_loss():
    _, _, agent, _, frozen_updates, state = small()
    frozen = agent.freeze(state)
    batch = agents.encoded(agent, state.params, random_batch())
    for update in frozen_updates:
        _, _, info = update(frozen, batch)
        assert "critic_loss" in info
        assert "contrast_loss" not in info


@pytest.mark.numeric
def test_contrastive_gradients_do_not_depend_on_the_size_of_rewards():
    _, _, _, (_, critic_only), _, state = small()
    batch = random_batch()
    ordinary, large = (
        agents.gradients(state, critic_only(state, batch.replace(reward=scale * batch.reward))[0])
        for scale in (1.0, 1e3)
    )
    agents.assert_gradients_equal(large["contrast"], ordinary["contrast"])
    assert not np.allclose(large["encoder"]["conv1"]["params"]["PatchConv_0"]["bias"], 0.0)
    assert not agents.equal(large["encoder"], ordinary["encoder"])


def test_anchor_bootstrap_and_positive_are_different_crops():
    agent, batch = small().agent, random_batch()
    inputs = agent.full.updates[0]._augment(jax.random.PRNGKey(3), batch.replace(next_obs=batch.obs))
    crops = [np.asarray(crop) for crop in inputs]
    assert len({crop.tobytes() for crop in crops}) == 3  # of the same images
    assert all(crop.shape == (8, CROP, CROP, 9) for crop in crops)


@pytest.mark.numeric
def test_freezing_at_another_stage_does_not_change_the_function():
    """The same parameters, split before and after the last convolution, act and learn alike."""
    _, _, agent, (_, critic_only), _, state = small()
    _, _, other_agent, (_, other_critic_only), _, other = small(seer__freeze_through="conv1")

    def resplit(params):
        """Moves the stages after the first from the frozen parts to those that train on."""
        stages = params["encoder"]
        parts = {"encoder": {"conv1": stages["conv1"]}, "tail": {name: stages[name] for name in STAGES[1:]}}
        actor = {"actor_encoder": {}, "actor_tail": params["actor_encoder"]} if "actor_encoder" in params else {}
        return params | parts | actor

    other = other.replace(params=resplit(state.params), target_params=resplit(state.target_params))
    obs = random_batch().obs
    actions = [
        jax.jit(lambda p, a=a: a.act_eval(p, a.encode(p, a.view(obs)), None))(s.params)
        for a, s in ((agent, state), (other_agent, other))
    ]
    np.testing.assert_allclose(*actions, atol=1e-5)
    one, losses, info = critic_only(state, random_batch())
    two, other_losses, other_info = other_critic_only(other, random_batch())
    agents.assert_close((other_losses, other_info), (losses, info), rtol=1e-4, atol=1e-5)
    gradients, other_gradients = agents.gradients(state, one), agents.gradients(other, two)
    for split, whole in ((other_gradients, gradients), (other_gradients["contrast"], gradients["contrast"])):
        stages = split["encoder"] | split["tail"]
        assert set(stages) == set(STAGES)
        agents.assert_gradients_equal(stages, whole["encoder"])
    agents.assert_close(two.params["encoder"] | two.params["tail"], one.params["encoder"], rtol=1e-4, atol=1e-6)


def test_first_actions_are_random_and_later_ones_the_policys():
    agent, state = small().agent, small().state
    latents = jnp.zeros((4, 2, 6))
    act = jax.jit(agent.act)
    key = jax.random.PRNGKey(5)
    other = state.params | {"actor": jax.tree.map(jnp.zeros_like, state.params["actor"])}
    # Four environments and ten random steps: steps 0, 1 and 2.
    assert agents.equal(act(state.params, latents, key, 2), act(other, latents, key, 2))
    assert not agents.equal(act(state.params, latents, key, 3), act(other, latents, key, 3))
    random = np.stack([act(state.params, latents, jax.random.PRNGKey(i), 0) for i in range(50)])
    assert random.min() < -0.9
    assert random.max() > 0.9


@pytest.mark.numeric
def test_evaluation_acts_with_the_squashed_mean():
    config, _, agent, _, _, state = small()
    latents = jax.random.normal(jax.random.PRNGKey(1), (4, 2, 6))
    policy = curl.make_networks(config, agents.ACTION_SIZE).policy.apply(
        state.params["actor"], latents[:, curl_networks.ACTOR]
    )
    action = agent.act_eval(state.params, latents, None)
    np.testing.assert_allclose(action, np.tanh(policy.distribution.loc), rtol=1e-5, atol=1e-6)


@pytest.mark.numeric
def test_stored_latents_are_those_of_crops_and_acting_uses_the_centre():
    agent, state = small().agent, small().state
    obs = random_batch(3).obs
    key = jax.random.PRNGKey(7)
    encode = jax.jit(functools.partial(agent.encode, state.params))
    acting, stored = jax.jit(functools.partial(base.latents_to_act_and_store, agent))(state.params, obs, key)
    assert stored.shape == (3, 4, 2, 6)
    np.testing.assert_allclose(acting, encode(augment.centre_crop(obs, CROP)), atol=1e-5)
    stored_alone = jax.jit(functools.partial(base.latents_to_store, agent))(state.params, obs, key)
    np.testing.assert_allclose(stored, stored_alone, atol=1e-5)
    crops = [encode(obs[:, t : t + CROP, s : s + CROP]) for t in range(5) for s in range(5)]
    for row in range(3):
        for copy in range(4):
            assert min(np.abs(stored[row, copy] - crop[row]).max() for crop in crops) < 1e-4
    assert not np.allclose(stored[:, 0], stored[:, 1])


def test_frozen_updates_learn_which_action_pays():
    """One-step episodes whose reward depends on how close the action is to one that the latent holds."""
    agent = curl.make_agent(agents.small_config("curl_sac", agent__hidden=64), agents.ACTION_SPECS["curl_sac"])
    state = jax.jit(lambda key: agent.freeze(agent.init(key)))(jax.random.PRNGKey(0))
    rng = np.random.default_rng(0)
    cycles = 500
    shape = cycles, 2, 64

    def draw(*shape):
        latent = np.repeat(rng.normal(size=(*shape, 1, 6)), 2, axis=-2).astype(np.float32)
        return latent, 0.7 * np.tanh(latent[..., 0, :2])

    latents, best = draw(*shape)
    actions = rng.uniform(-1, 1, (*shape, 2)).astype(np.float32)
    rewards = -5 * np.sum((actions - best) ** 2, axis=-1)
    zeros, start = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    batches = replay.Batch(latents, actions, rewards, zeros, latents, zeros + 1, start)

    def cycle(state, batches):
        for i, update in enumerate(map(agents.at_every_step, agent.frozen.updates)):
            state, _, _ = update(state, jax.tree.map(lambda x, i=i: x[i], batches))
        return state, None

    state, _ = jax.jit(functools.partial(jax.lax.scan, cycle))(state, batches)
    assert state.updates == 2 * cycles
    latent, best = draw(64)
    error = np.abs(agent.act_eval(state.params, latent, None) - best).mean()
    assert error < 0.12, error
