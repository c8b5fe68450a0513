"""Losses of soft actor-critic and of contrastive learning that rlax lacks, of one transition each if possible.

Rainbow's loss, `rainbow._Updates.losses`, takes its projection from rlax.
"""

import chex
import jax
import jax.numpy as jnp
import optax


def soft_td_target(
    reward: jax.Array, discount: jax.Array, next_q: jax.Array, next_log_prob: jax.Array, temperature: jax.Array
) -> jax.Array:
    """Target of both Q-functions for one transition (Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905, eq. 6).

    Args:
      reward: scalar, discounted sum over the window.
      discount: scalar, factor of the value at the end of the window.
      next_q: `[2]` target Q-values of an action drawn from the policy there.
      next_log_prob: scalar, that action's log-density.
      temperature: scalar, weight of the entropy.

    Returns:
      Scalar, without gradient.
    """
    chex.assert_rank([reward, discount, next_q, next_log_prob, temperature], [0, 0, 1, 0, 0])
    return jax.lax.stop_gradient(reward + discount * (next_q.min() - temperature * next_log_prob))


def twin_q_loss(q: jax.Array, target: jax.Array) -> jax.Array:
    """Sum of the squared errors of both Q-values, `[2]`, of one transition."""
    chex.assert_rank([q, target], [1, 0])
    return jnp.sum(jnp.square(q - target))


def policy_loss(q: jax.Array, log_prob: jax.Array, temperature: jax.Array) -> jax.Array:
    """Loss of the policy at one state (Haarnoja et al. 2018, eq. 7).

    Args:
      q: `[2]` Q-values of an action drawn from the policy.
      log_prob: scalar, its log-density.
      temperature: scalar; no gradient flows into it.
    """
    chex.assert_rank([q, log_prob, temperature], [1, 0, 0])
    return jax.lax.stop_gradient(temperature) * log_prob - q.min()


def temperature_loss(log_temperature: jax.Array, log_prob: jax.Array, target_entropy: float) -> jax.Array:
    """Loss of the temperature at one state (Haarnoja et al. 2018, eq. 18).

    A step against its gradient lowers the temperature if the entropy exceeds its target.
    """
    chex.assert_rank([log_temperature, log_prob], 0)
    return jnp.exp(log_temperature) * jax.lax.stop_gradient(-log_prob - target_entropy)


def info_nce(anchors: jax.Array, positives: jax.Array, product: jax.Array) -> jax.Array:
    """Cross-entropy of identifying each anchor's positive among all (Laskin et al. 2020, https://arxiv.org/abs/2004.04136).

    Args:
      anchors: `[B, L]`.
      positives: `[B, L]`, row i belonging to anchor i.
      product: `[L, L]`, the bilinear similarity.

    Returns:
      `[B]` losses in nats.
    """
    chex.assert_equal_shape([anchors, positives])
    logits = anchors @ product @ positives.T  # [B, B]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(logits)))
