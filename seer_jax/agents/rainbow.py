"""Rainbow (Hessel et al. 2018, https://arxiv.org/abs/1710.02298) in its data-efficient setting.

Double Q-learning, dueling heads, n-step returns, C51 and noisy layers; prioritized replay is the ring's.
The loss is written once, on latents. `update` feeds it from the encoders, `update_latent` from the ring.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import rlax
from ml_collections import ConfigDict

from seer_jax import replay
from seer_jax.agents import base
from seer_jax.networks import encoders, heads


class Latents(NamedTuple):
    """Latents that the loss needs, each `[B, L]`.

    Attributes:
      obs: online latents where the windows start.
      selector: online latents where they end.
      target: latents of the target encoder where they end.
    """

    obs: jax.Array
    selector: jax.Array
    target: jax.Array


def make_agent(config: ConfigDict, *, num_actions: int) -> base.Agent:
    """Builds Rainbow for square observations.

    Args:
      config: the whole run's configuration.
      num_actions: size of the action set.
    """
    cfg = config.agent
    size, stack = config.env.image_size, config.env.frame_stack
    encoder = encoders.ConvEncoder(encoders.STAGES[config.encoder.name])
    head = heads.DuelingC51(num_actions, cfg.num_atoms, cfg.hidden, cfg.noise_std)
    noise_size = sum(head.noise_sizes(encoders.latent_size(config.encoder.name, size)))
    support = jnp.linspace(-cfg.v_max, cfg.v_max, cfg.num_atoms, dtype=jnp.float32)
    clip = optax.clip_by_global_norm(cfg.max_grad_norm)
    adam = optax.adam(cfg.learning_rate, eps=cfg.adam_eps)
    target_period = cfg.target_update_every // config.update_every

    def init(key: jax.Array) -> base.TrainState:
        k_encoder, k_heads, k_state = jax.random.split(key, 3)
        obs = jnp.zeros((1, size, size, stack), jnp.uint8)
        encoder_params = encoder.init(k_encoder, obs)
        latent = encoder.apply(encoder_params, obs)
        params = {"encoder": encoder_params, "heads": head.init(k_heads, latent)}
        return base.TrainState(
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            opt_state={part: adam.init(p) for part, p in params.items()},
            key=k_state,
            updates=jnp.zeros((), jnp.int32),
        )

    def encode(encoder_params, obs: jax.Array) -> jax.Array:
        return encoder.apply(encoder_params, obs)[:, None]  # [B, 1, L]

    def q_values(head_params, latent: jax.Array, noise: jax.Array | None) -> jax.Array:
        probs = jax.nn.softmax(head.apply(head_params, latent, noise))
        return probs @ support  # [..., A]

    def act(params: base.Params, latents: jax.Array, key: jax.Array) -> jax.Array:
        # Each environment explores with noise of its own.
        noise = jax.random.normal(key, (latents.shape[0], noise_size))
        return q_values(params["heads"], latents[:, 0], noise).argmax(axis=-1).astype(jnp.int32)

    def act_eval(params: base.Params, latents: jax.Array, key: jax.Array) -> jax.Array:
        q = q_values(params["heads"], latents[:, 0], None)
        return rlax.epsilon_greedy(cfg.eval_epsilon).sample(key, q).astype(jnp.int32)

    def head_losses(
        head_params, target_head_params, latents: Latents, batch: replay.Batch, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns each transition's cross-entropy to its double-Q target in nats, `[B]`, and its Q-value."""
        online_noise, selector_noise, target_noise = jax.random.normal(key, (3, noise_size))
        logits = head.apply(head_params, latents.obs, online_noise)  # [B, A, atoms]
        target_logits = head.apply(target_head_params, latents.target, target_noise)
        selector_q = q_values(head_params, latents.selector, selector_noise)
        loss = jax.vmap(rlax.categorical_double_q_learning, in_axes=(None, 0, 0, 0, 0, None, 0, 0))
        losses = loss(support, logits, batch.action, batch.reward, batch.discount, support, target_logits, selector_q)
        chosen = jnp.take_along_axis(logits, batch.action[:, None, None], axis=1)[:, 0]
        return losses, jax.nn.softmax(chosen) @ support

    def encode_batch(params: base.Params, target_params: base.Params, batch: replay.Batch) -> Latents:
        return Latents(
            obs=encoder.apply(params["encoder"], batch.obs),
            selector=encoder.apply(jax.lax.stop_gradient(params["encoder"]), batch.next_obs),
            target=encoder.apply(target_params["encoder"], batch.next_obs),
        )

    def read_batch(params: base.Params, target_params: base.Params, batch: replay.Batch) -> Latents:
        return Latents(obs=batch.obs[:, 0], selector=batch.next_obs[:, 0], target=batch.next_obs[:, 0])

    def update_with(latents_of, state: base.TrainState, batch: replay.Batch):
        _, key = base.update_keys(state)

        def loss_fn(trained: base.Params):
            params = state.params | trained
            latents = latents_of(params, state.target_params, batch)
            losses, q = head_losses(params["heads"], state.target_params["heads"], latents, batch, key)
            return jnp.mean(batch.weight * losses), (losses, q)

        trained = {part: state.params[part] for part in state.opt_state}
        (loss, (losses, q)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        clipped, _ = clip.update(grads, clip.init(trained))
        steps = {part: adam.update(clipped[part], state.opt_state[part]) for part in trained}
        new = {part: optax.apply_updates(trained[part], step) for part, (step, _) in steps.items()}
        params, updates = state.params | new, state.updates + 1
        online = {part: params[part] for part in state.target_params}
        state = state.replace(
            params=params,
            target_params=optax.periodic_update(online, state.target_params, updates, target_period),
            opt_state={part: opt_state for part, (_, opt_state) in steps.items()},
            updates=updates,
        )
        return state, losses, {"loss": loss, "q_mean": q.mean(), "grad_norm": optax.global_norm(grads)}

    return base.Agent(
        init=init,
        encode=encode,
        act=act,
        act_eval=act_eval,
        update=lambda state, batch: update_with(encode_batch, state, batch),
        update_latent=lambda state, batch: update_with(read_batch, state, batch),
        has_convolution=any(kernel != stride for _, kernel, stride in encoder.stages),
        freeze=base.freeze_encoder,
    )
