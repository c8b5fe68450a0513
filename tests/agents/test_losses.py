"""Losses of CURL-SAC against arrays computed by hand, and against a naive twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.agents import losses
from tests.helpers import naive

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize(("discount", "expected"), [(0.9, 1.0 + 0.9 * (2.0 - 0.1 * -3.0)), (0.0, 1.0)])
def test_soft_td_target_equals_hand_computation_and_has_no_gradient(discount, expected):
    arguments = [jnp.asarray(x) for x in (1.0, discount, [5.0, 2.0], -3.0, 0.1)]
    np.testing.assert_allclose(losses.soft_td_target(*arguments), expected, rtol=1e-6)
    gradients = jax.grad(lambda q, t: losses.soft_td_target(*arguments[:2], q, arguments[3], t), argnums=(0, 1))(
        arguments[2], arguments[4]
    )
    assert not any(np.any(g) for g in gradients)


def test_twin_q_loss_is_the_sum_of_both_squared_errors():
    np.testing.assert_allclose(losses.twin_q_loss(jnp.asarray([1.0, 4.0]), jnp.asarray(2.0)), 1.0 + 4.0)


def test_policy_loss_weighs_entropy_against_the_smaller_q():
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


def test_info_nce_equals_twin():
    rng = np.random.default_rng(0)
    anchors, positives, product = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.normal(size=(3, 3))
    expected = naive.info_nce(anchors, positives, product)
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
