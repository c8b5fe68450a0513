"""The four losses of a full CURL-SAC update, their values and their gradients, against a naive twin."""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.agents import base
from tests.helpers import agents, naive

pytestmark = pytest.mark.numeric

STEP = 1e-6  # of the differences that gradients are compared with


@functools.cache
def case():
    """Returns the agent, its twin, a batch, the views of it that an update draws, and the noise of two actions."""
    small = agents.make("curl_sac")
    batch = agents.random_batch("curl_sac")
    k_views, k_target, k_actor = jax.random.split(base.update_keys(small.state)[1], 3)
    views = small.agent.full.updates[0]._augment(k_views, batch)
    zeros = jnp.zeros((8, agents.ACTION_SIZE))
    normal = distrax.MultivariateNormalDiag(zeros, zeros + 1)
    noises = [float64(normal.sample(seed=key)) for key in (k_target, k_actor)]
    cfg = small.config.agent
    twin = naive.NaiveCurl(log_std_min=cfg.log_std_min, log_std_max=cfg.log_std_max)
    return small, twin, float64(batch), float64(views), *noises


def float64(tree):
    return jax.tree.map(np.float64, tree)


@functools.cache
def updated():
    """Returns the state after an update, its losses and its metrics."""
    small, *_ = case()
    return small.full_updates[1](small.state, agents.random_batch("curl_sac"))


@functools.cache
def updated_without_contrast():
    """An update of critic and actor alone.

    It steps the encoder once, and returns the encoder and the critic that the actor's loss used.
    """
    small, *_ = case()
    opt_state = {part: value for part, value in small.state.opt_state.items() if part != "contrast"}
    state = small.state.replace(opt_state=opt_state)
    return state, small.full_updates[0](state, agents.random_batch("curl_sac"))


def assert_gradients_equal_differences(loss, params, gradients):
    """Compares the gradient of every array with central differences of the twin's loss.

    Each array is moved along the sum of two unit vectors: its own gradient, and a random one, which alone would show
    little of a large array, and without which a gradient that is missing would go unnoticed.
    """
    rng = np.random.default_rng(0)
    for part, part_gradients in gradients.items():
        leaves, tree = jax.tree.flatten(params[part])
        for i, gradient in enumerate(jax.tree.leaves(part_gradients)):
            norm, random = np.linalg.norm(gradient), rng.normal(size=np.shape(gradient))
            direction = gradient / max(norm, 1e-30) + random / np.linalg.norm(random)

            def moved_loss(step, part=part, leaves=leaves, tree=tree, i=i, direction=direction):
                moved = [*leaves[:i], leaves[i] + step * direction, *leaves[i + 1 :]]
                return loss(params | {part: jax.tree.unflatten(tree, moved)})

            difference = (moved_loss(STEP) - moved_loss(-STEP)) / (2 * STEP)
            expected = np.sum(gradient * direction)
            message = f"{part}, array {i}: {gradient.shape}"
            np.testing.assert_allclose(difference, expected, rtol=1e-3, atol=1e-4, err_msg=message)


def test_critic_loss_and_its_gradients_equal_twin():
    _, twin, batch, views, target_noise, _ = case()
    state, (after, losses, info) = updated_without_contrast()
    params, target_params = float64(state.params), float64(state.target_params)
    targets = twin.soft_targets(params, target_params, views.next_obs, batch.reward, batch.discount, target_noise)

    def naive_losses(params):
        return twin.critic_losses(params, views.obs, batch.action, targets)

    np.testing.assert_allclose(losses, naive_losses(params), rtol=1e-4)
    np.testing.assert_allclose(info["critic_loss"], np.mean(batch.weight * naive_losses(params)), rtol=1e-4)
    gradients = agents.gradients(state, after)
    assert_gradients_equal_differences(
        lambda params: np.mean(batch.weight * naive_losses(params)),
        params,
        {part: gradients[part] for part in ("encoder", "critic")},
    )


def test_contrastive_loss_and_its_gradients_equal_twin():
    small, twin, _, views, *_ = case()
    after, _, info = updated()
    params, target_params = float64(small.state.params), float64(small.state.target_params)

    def loss(params):
        return twin.contrastive_losses(params, target_params, views.obs, views.positive).mean()

    np.testing.assert_allclose(info["contrast_loss"], loss(params), rtol=1e-4)
    gradients = agents.gradients(small.state, after)["contrast"]
    assert_gradients_equal_differences(loss, params, {part: gradients[part] for part in ("encoder", "contrast")})


def test_actor_loss_and_its_gradients_equal_twin_on_the_new_encoder_and_critic():
    _, twin, _, views, _, noise = case()
    state, (after, _, info) = updated_without_contrast()
    temperature = np.exp(float64(state.params["log_temperature"]))
    new = {part: after.params[part] for part in ("encoder", "critic")}
    params = float64(state.params | new)

    def loss(params):
        return twin.actor_losses(params, views.obs, noise, temperature)[0].mean()

    np.testing.assert_allclose(info["actor_loss"], loss(params), rtol=1e-4)
    # With the encoder or the critic of before the update it would be another loss.
    for part in new:
        assert not np.allclose(info["actor_loss"], loss(params | {part: float64(state.params[part])}), rtol=1e-3)
    gradients = agents.gradients(state, after)
    assert_gradients_equal_differences(loss, params, {part: gradients[part] for part in ("actor", "actor_encoder")})


def test_temperature_loss_equals_twin_with_entropy_and_gradient():
    small, twin, _, views, _, noise = case()
    state, (after, _, info) = updated_without_contrast()
    log_temperature = float64(state.params["log_temperature"])
    params = float64(state.params | {"encoder": after.params["encoder"]})
    _, log_probs = twin.actor_losses(params, views.obs, noise, np.exp(log_temperature))
    np.testing.assert_allclose(info["entropy"], -log_probs.mean(), rtol=1e-4)
    np.testing.assert_allclose(info["temperature"], np.exp(log_temperature), rtol=1e-6)

    def loss(params):
        return twin.temperature_losses(params["log_temperature"], log_probs, -agents.ACTION_SIZE).mean()

    gradients = agents.gradients(state, after, b1=small.config.agent.temperature_adam_b1)
    assert_gradients_equal_differences(loss, params, {"log_temperature": gradients["log_temperature"]})
