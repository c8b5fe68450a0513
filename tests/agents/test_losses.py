"""Losses and distributions of CURL-SAC against hand-computed arrays and integrals."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.agents import losses
from seer_jax.networks import heads


@pytest.mark.parametrize(("discount", "expected"), [(0.9, 1.0 + 0.9 * (2.0 - 0.1 * -3.0)), (0.0, 1.0)])
def test_soft_td_target(discount, expected):
    arguments = [jnp.asarray(x) for x in (1.0, discount, [5.0, 2.0], -3.0, 0.1)]
    np.testing.assert_allclose(losses.soft_td_target(*arguments), expected, rtol=1e-6)
    gradients = jax.grad(lambda q, t: losses.soft_td_target(*arguments[:2], q, arguments[3], t), argnums=(0, 1))(
        arguments[2], arguments[4]
    )
    assert not any(np.any(g) for g in gradients)


def test_twin_q_loss_counts_both():
    np.testing.assert_allclose(losses.twin_q_loss(jnp.asarray([1.0, 4.0]), jnp.asarray(2.0)), 1.0 + 4.0)


def test_policy_loss_weighs_entropy_against_the_lesser_q():
    q, log_prob, temperature = jnp.asarray([3.0, 1.0]), jnp.asarray(-2.0), jnp.asarray(0.5)
    np.testing.assert_allclose(losses.policy_loss(q, log_prob, temperature), 0.5 * -2.0 - 1.0)
    by_q, by_log_prob, by_temperature = jax.grad(losses.policy_loss, argnums=(0, 1, 2))(q, log_prob, temperature)
    np.testing.assert_allclose(by_q, [0.0, -1.0])
    assert (by_log_prob, by_temperature) == (0.5, 0.0)


@pytest.mark.parametrize(("log_prob", "sign"), [(-5.0, 1), (2.0, -1)])
def test_temperature_falls_where_entropy_exceeds_its_target(log_prob, sign):
    """Entropy is -log_prob and its target -1: a gradient descent lowers the temperature if the gradient is positive."""
    log_temperature = jnp.log(0.1)
    loss, gradient = jax.value_and_grad(losses.temperature_loss)(log_temperature, jnp.asarray(log_prob), -1.0)
    np.testing.assert_allclose(loss, 0.1 * (-log_prob + 1.0), rtol=1e-5)
    assert np.sign(gradient) == sign


def naive_info_nce(anchors, positives, product):
    out = []
    for i, anchor in enumerate(anchors):
        scores = [sum(anchor @ product * positive) for positive in positives]
        out.append(-scores[i] + np.log(np.sum(np.exp(scores))))
    return out


def test_info_nce_is_the_cross_entropy_of_finding_the_positive():
    rng = np.random.default_rng(0)
    anchors, positives, product = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.normal(size=(3, 3))
    expected = naive_info_nce(anchors, positives, product)
    np.testing.assert_allclose(losses.info_nce(*map(jnp.asarray, (anchors, positives, product))), expected, rtol=1e-4)


def test_info_nce_does_not_change_when_all_scores_of_an_anchor_shift():
    """One more dimension, with an entry of 1 in all positives, adds the same number to all of an anchor's scores."""
    rng = np.random.default_rng(1)
    anchors, positives = (jnp.asarray(rng.normal(size=(6, 4)), jnp.float32) for _ in range(2))
    plain = losses.info_nce(anchors, positives, jnp.eye(4))
    for shift in (-50.0, 500.0):
        shifted_anchors = jnp.concatenate([anchors, jnp.full((6, 1), shift)], axis=1)
        shifted_positives = jnp.concatenate([positives, jnp.ones((6, 1))], axis=1)
        shifted = losses.info_nce(shifted_anchors, shifted_positives, jnp.eye(5))
        np.testing.assert_allclose(shifted, plain, atol=1e-3)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -1.0), (0.8, 0.3), (-1.5, -0.5)])
def test_squashed_log_probability_integrates_to_one(mean, log_std):
    policy = distrax.Transformed(
        distrax.MultivariateNormalDiag(jnp.asarray([mean]), jnp.exp(jnp.asarray([log_std]))),
        distrax.Block(distrax.Tanh(), 1),
    )
    # Equal steps before squashing resolve the ends, where the density is steep.
    raw = np.linspace(-8, 8, 20_001)
    action = np.tanh(raw)
    density = np.exp(np.asarray(jax.vmap(policy.log_prob)(jnp.asarray(action[:, None], jnp.float32)), np.float64))
    inside = np.abs(action) < 1 - 1e-6
    np.testing.assert_allclose(np.trapezoid(density[inside], action[inside]), 1.0, atol=2e-3)


def small_policy(action_size=2):
    policy = heads.GaussianPolicy(action_size, hidden=8, log_std_min=-10.0, log_std_max=2.0)
    latent = jax.random.normal(jax.random.PRNGKey(1), (16, 5))
    return policy, policy.init(jax.random.PRNGKey(0), latent), latent


def test_policy_reports_the_density_of_what_it_samples():
    policy, params, latent = small_policy()
    distribution = policy.apply(params, latent)
    action, log_prob = distribution.sample_and_log_prob(seed=jax.random.PRNGKey(2))
    assert action.shape == (16, 2)
    assert log_prob.shape == (16,)
    assert np.all(np.abs(action) < 1)
    normal = distribution.distribution
    raw = np.arctanh(np.asarray(action, np.float64))
    mean, std = np.asarray(normal.loc), np.asarray(normal.stddev())
    gaussian = -0.5 * ((raw - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    by_hand = (gaussian - np.log(1 - np.asarray(action, np.float64) ** 2)).sum(axis=1)
    np.testing.assert_allclose(log_prob, by_hand, rtol=1e-2, atol=1e-2)


def test_policy_keeps_log_std_between_its_bounds():
    policy, params, latent = small_policy()
    for scale in (0.0, 1e3, -1e3):
        log_std = np.log(policy.apply(params, latent * scale).distribution.stddev())
        assert np.all((log_std >= -10.001) & (log_std <= 2.001))
    np.testing.assert_allclose(np.log(policy.apply(params, latent * 0).distribution.stddev()), -4.0, rtol=1e-4)


def test_both_q_functions_have_parameters_of_their_own():
    critic = heads.TwinQ(hidden=8)
    latent, action = jnp.ones((4, 5)), jnp.ones((4, 2))
    params = critic.init(jax.random.PRNGKey(0), latent, action)
    q = critic.apply(params, latent, action)
    assert q.shape == (4, 2)
    changed = jax.tree.map(jnp.copy, params)
    changed["params"]["q1_1"]["kernel"] += 1.0
    after = critic.apply(changed, latent, action)
    assert not np.allclose(after[:, 0], q[:, 0])
    np.testing.assert_array_equal(after[:, 1], q[:, 1])
