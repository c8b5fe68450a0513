"""Double DQN (van Hasselt et al. 2016, https://arxiv.org/abs/1509.06461) as an algorithm that SEER can freeze."""

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import rlax
from dm_env import specs

from seer_jax import flops, replay
from seer_jax.agents import augment, base
from seer_jax.config import AgentConfig, EncoderConfig, RunConfig
from seer_jax.envs import registry
from seer_jax.fields import ConfigError, integer, real
from seer_jax.networks import encoders, initializers

Updated = tuple[base.TrainState, jax.Array, base.Info]  # what an update returns


@dataclasses.dataclass(frozen=True, kw_only=True)
class DqnConfig(AgentConfig):
    """Double DQN. The defaults are those of Catch."""

    learning_rate: float = 5e-4
    hidden: int = 64
    target_update_every: int = integer(200, "agent steps between two copies of the target network", low=1)
    epsilon: float = real(0.1, "probability of a random action in training", low=0.0, high=1.0)


def make_agent(config: RunConfig, action_spec: specs.DiscreteArray) -> base.Agent:
    """Builds Double DQN for square observations.

    Args:
      config: the configuration of the run.
      action_spec: action of one environment.
    """
    cfg, encoder = config.agent, _make_encoder(config.encoder)
    assert isinstance(cfg, DqnConfig)
    head = nn.Sequential([nn.Dense(cfg.hidden), nn.relu, nn.Dense(action_spec.num_values)])
    adam = optax.adam(cfg.learning_rate)
    one_view = jax.ShapeDtypeStruct((1, *registry.view_shape(config.env)), jnp.uint8)

    def init(key: jax.Array) -> base.TrainState:
        k_encoder, k_head, k_state = jax.random.split(key, 3)
        views = jnp.zeros(one_view.shape, one_view.dtype)
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

    def losses(
        params: base.Params,
        target_params: base.Params,
        obs: jax.Array,
        selector: jax.Array,
        target: jax.Array,
        batch: replay.Batch,
    ) -> jax.Array:
        """Returns the loss of each transition, `[B]`, from latents of its first and, twice, of its last observation."""
        td_error = jax.vmap(rlax.double_q_learning)(
            q_values(params, obs),
            batch.action,
            batch.reward,
            batch.discount,
            q_values(target_params, target),
            q_values(params, selector),
        )
        return rlax.huber_loss(td_error)

    def full(state: base.TrainState, batch: replay.Batch, steps: base.Steps) -> Updated:
        obs, next_obs = view(batch.obs), view(batch.next_obs)

        def latents_of(params: base.Params) -> tuple[jax.Array, jax.Array, jax.Array]:
            return encode(params, obs), encode(params, next_obs), encode(state.target_params, next_obs)

        return update(latents_of, state, batch, steps)

    def frozen(state: base.TrainState, batch: replay.Batch, steps: base.Steps) -> Updated:
        obs, next_obs = batch.obs[:, 0], batch.next_obs[:, 0]
        return update(lambda params: (obs, next_obs, next_obs), state, batch, steps)

    def update(
        latents_of: Callable[..., tuple], state: base.TrainState, batch: replay.Batch, steps: base.Steps
    ) -> Updated:
        def loss_fn(trained: base.Params) -> tuple[jax.Array, jax.Array]:
            params = state.params | trained
            each = losses(params, state.target_params, *latents_of(params), batch)
            return jnp.mean(batch.weight * each), each

        trained = {part: state.params[part] for part in state.opt_state}
        (loss, each), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        state = base.apply_gradients(dict.fromkeys(trained, adam), state, grads)
        online = {part: state.params[part] for part in state.target_params}
        copy = steps.reach_multiple_of(cfg.target_update_every)
        targets = jax.tree.map(lambda new, old: jnp.where(copy, new, old), online, state.target_params)
        state = state.replace(target_params=targets, updates=state.updates + 1)
        return state, each, {"loss": loss, "grad_norm": optax.global_norm(grads)}

    def act(params: base.Params, latents: jax.Array, key: jax.Array, step: jax.Array) -> jax.Array:
        del step
        return rlax.epsilon_greedy(cfg.epsilon).sample(key, q_values(params, latents[:, 0])).astype(jnp.int32)

    def act_eval(params: base.Params, latents: jax.Array, key: jax.Array) -> jax.Array:
        del key
        return q_values(params, latents[:, 0]).argmax(axis=-1).astype(jnp.int32)

    # The online network runs on both observations and the target network on the last; the online one is differentiated.
    def head_passes() -> flops.Passes:
        params = jax.eval_shape(init, jax.random.PRNGKey(0)).params
        latent = jax.eval_shape(encode, params, one_view)
        return flops.Passes(flops.count_macs(q_values, params, latent), forward=3, backward=1)

    def encoder_passes() -> flops.Passes:
        params = jax.eval_shape(init, jax.random.PRNGKey(0)).params
        return flops.Passes(flops.count_macs(encode, params, one_view), forward=3, backward=1)

    full_learner = base.Learner((full,), lambda: (encoder_passes(), head_passes()))
    frozen_learner = base.Learner((frozen,), lambda: (head_passes(),))
    return base.Agent(
        init=init,
        view=view,
        augment=None,  # the latent that the agent acts on is the one that is stored
        encode=lambda params, views: encode(params, views)[:, None],  # [B, N=1, L]
        act=act,
        act_eval=act_eval,
        full=full_learner,
        frozen=frozen_learner,
        freeze=lambda state: base.freeze_encoder(state, sync_target_heads=config.seer.sync_target_heads),
    )


def _make_encoder(encoder: EncoderConfig) -> encoders.Encoder:
    return encoders.make_encoder(encoder.name, initializers.UNIFORM, encoder.compute_dtype, encoder.width)


def _stage_names(encoder: EncoderConfig) -> tuple[str, ...]:
    return _make_encoder(encoder).names[-1:]  # the encoder freezes as a whole


def _latent_shape(config: RunConfig) -> tuple[int, int]:
    return 1, math.prod(_make_encoder(config.encoder).output_shape(registry.view_shape(config.env)))


def _check(config: RunConfig) -> None:
    assert isinstance(config.agent, DqnConfig)
    if config.seer.num_copies != 1:
        raise ConfigError(f"seer.num_copies={config.seer.num_copies}: agent.name=dqn stores one latent; set it to 1")


DQN = base.Algorithm(
    config_class=DqnConfig,
    discrete_actions=True,
    make_agent=make_agent,
    stage_names=_stage_names,
    latent_shape=_latent_shape,
    check=_check,
)
