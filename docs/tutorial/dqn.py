"""Double DQN (van Hasselt et al. 2016, https://arxiv.org/abs/1509.06461) as an agent that SEER can freeze."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import rlax
from dm_env import specs
from ml_collections import ConfigDict

from seer_jax import flops, replay
from seer_jax.agents import augment, base
from seer_jax.fields import MANY, ConfigError, Number
from seer_jax.networks import encoders

DISCRETE_ACTIONS = True
FIELDS = {
    "agent.epsilon": Number("probability of a random action in training", 0.0, 1.0),
    "agent.target_update_every": Number("agent steps to a copy of the target network", 1, MANY),
    "seer.num_copies": Number("latents stored of each row", 1, 1),
}


def check(config: ConfigDict) -> None:
    if config.agent.target_update_every % config.update_every:
        raise ConfigError("agent.target_update_every must be a multiple of update_every")


def _encoder(config: ConfigDict) -> encoders.Encoder:
    return encoders.make_encoder(config.encoder.name, encoders.UNIFORM, config.encoder.compute_dtype)


def stage_names(config: ConfigDict) -> tuple[str, ...]:
    return _encoder(config).names[-1:]  # it freezes whole


def latent_shape(config: ConfigDict) -> tuple[int, int]:
    return 1, math.prod(_encoder(config).output_shape(base.view_shape(config)))


def updates_per_cycle(config: ConfigDict) -> int:
    return 1


def make_agent(config: ConfigDict, action_spec: specs.DiscreteArray) -> base.Agent:
    cfg, encoder = config.agent, _encoder(config)
    head = nn.Sequential([nn.Dense(cfg.hidden), nn.relu, nn.Dense(action_spec.num_values)])
    adam = optax.adam(cfg.learning_rate)

    def init(key: jax.Array) -> base.TrainState:
        k_encoder, k_head, k_state = jax.random.split(key, 3)
        views = jnp.zeros((1, *base.view_shape(config)), jnp.uint8)
        params = {"encoder": encoder.init(k_encoder, encoders.to_float(views))}
        params["head"] = head.init(k_head, encode(params, views))
        return base.TrainState(
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            opt_state={part: adam.init(p) for part, p in params.items()},
            key=k_state,
            updates=jnp.zeros((), jnp.int32),
        )

    def view(obs: jax.Array) -> jax.Array:
        return augment.centre_crop(obs, config.env.crop_size)

    def encode(params: base.Params, views: jax.Array) -> jax.Array:
        return encoders.flatten(encoder.apply(params["encoder"], encoders.to_float(views)))  # [B, L]

    def q_values(params: base.Params, latents: jax.Array) -> jax.Array:
        return head.apply(params["head"], latents)  # [B, num_actions]

    def losses(params, target_params, obs, selector, target, batch: replay.Batch) -> jax.Array:
        """Returns each transition's loss, `[B]`, from latents of where it starts and, twice, of where it ends."""
        td_error = jax.vmap(rlax.double_q_learning)(
            q_values(params, obs),
            batch.action,
            batch.reward,
            batch.discount,
            q_values(target_params, target),
            q_values(params, selector),
        )
        return rlax.huber_loss(td_error)

    def full(state: base.TrainState, batch: replay.Batch):
        obs, next_obs = view(batch.obs), view(batch.next_obs)

        def latents_of(params):
            return encode(params, obs), encode(params, next_obs), encode(state.target_params, next_obs)

        return update(latents_of, state, batch)

    def latent(state: base.TrainState, batch: replay.Batch):
        obs, next_obs = batch.obs[:, 0], batch.next_obs[:, 0]
        return update(lambda params: (obs, next_obs, next_obs), state, batch)

    def update(latents_of: Any, state: base.TrainState, batch: replay.Batch):
        def loss_fn(trained: base.Params):
            params = state.params | trained
            each = losses(params, state.target_params, *latents_of(params), batch)
            return jnp.mean(batch.weight * each), each

        trained = {part: state.params[part] for part in state.opt_state}
        (loss, each), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        state = base.apply_gradients(dict.fromkeys(trained, adam), state, grads)
        online = {part: state.params[part] for part in state.target_params}
        period = cfg.target_update_every // config.update_every
        targets = optax.periodic_update(online, state.target_params, state.updates + 1, period)
        state = state.replace(target_params=targets, updates=state.updates + 1)
        return state, each, {"loss": loss, "grad_norm": optax.global_norm(grads)}

    def act(params: base.Params, latents: jax.Array, key: jax.Array, step: jax.Array) -> jax.Array:
        del step
        return rlax.epsilon_greedy(cfg.epsilon).sample(key, q_values(params, latents[:, 0])).astype(jnp.int32)

    def act_eval(params: base.Params, latents: jax.Array, key: jax.Array) -> jax.Array:
        del key
        return q_values(params, latents[:, 0]).argmax(axis=-1).astype(jnp.int32)

    def passes(on_latents: bool) -> tuple[flops.Passes, ...]:
        params = jax.eval_shape(init, jax.random.PRNGKey(0)).params
        views = jax.ShapeDtypeStruct((1, *base.view_shape(config)), jnp.uint8)
        latents = jax.ShapeDtypeStruct((1, latent_shape(config)[1]), jnp.float32)
        # Online, selector and target network forward, the online one backward; on latents no encoder runs.
        frozen = flops.Passes(flops.count_macs(encode, params, views), forward=3, backward=1)
        trained = flops.Passes(flops.count_macs(q_values, params, latents), forward=3, backward=1)
        return (trained,) if on_latents else (frozen, trained)

    return base.Agent(
        init=init,
        view=view,
        augment=None,  # the latent that acts is the one that is stored
        encode=lambda params, views: encode(params, views)[:, None],  # [B, N=1, L]
        act=act,
        act_eval=act_eval,
        updates=(full,),
        latent_updates=(latent,),
        passes=passes,
        has_convolution=encoder.has_convolution,
        latent_has_convolution=False,
        freeze=lambda state: base.freeze_encoder(state, sync_target_heads=config.seer.sync_target_heads),
    )
