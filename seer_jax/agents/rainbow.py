"""Rainbow (Hessel et al. 2018, https://arxiv.org/abs/1710.02298) in its data-efficient setting.

Double Q-learning, dueling heads, n-step returns, C51 and noisy layers; prioritized replay is a property of the ring.
The loss is written once, on latents. The full update computes them with the encoders, the latent-only update reads them
from the ring.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import rlax
from dm_env import specs

from seer_jax import flops, platforms, replay
from seer_jax.agents import augment, base
from seer_jax.config import AgentConfig, EncoderConfig, RunConfig
from seer_jax.envs import registry
from seer_jax.fields import ConfigError, integer, real
from seer_jax.networks import encoders, heads, initializers


@dataclasses.dataclass(frozen=True, kw_only=True)
class RainbowConfig(AgentConfig):
    """Rainbow. The defaults are the published values of the data-efficient setting."""

    n_step: int = 20
    adam_eps: float = real(1.5e-4, "Adam epsilon", low=1e-12, high=1.0)
    max_grad_norm: float = real(10.0, "norm to which the gradient of all parameters is clipped", low=1e-6, high=1e9)
    target_update_every: int = integer(
        2000, "the target network is copied at agent steps that are multiples of this", low=1
    )
    num_atoms: int = integer(51, "atoms of a return distribution", low=2, high=1001)
    v_max: float = real(10.0, "upper bound of a return distribution; the lower bound is -v_max", low=1e-6, high=1e9)
    noise_std: float = real(0.1, "initial standard deviation of the noisy layers", low=0.0, high=10.0)
    eval_epsilon: float = real(0.001, "probability of a random action in an evaluation", low=0.0, high=1.0)


Updated = tuple[base.TrainState, jax.Array, base.Info]  # what an update returns


class Latents(NamedTuple):
    """Latents that the loss needs, each `[B, L]`.

    Attributes:
      obs: online latents of the windows' first observations.
      selector: online latents of the windows' last observations.
      target: latents of the target encoder of the windows' last observations.
    """

    obs: jax.Array
    selector: jax.Array
    target: jax.Array


class Networks:
    """The network in its parts: the stages that freeze, the stages after them, and the heads.

    Args:
      agent: the section `agent`.
      encoder: the section `encoder`.
      freeze_through: last stage that freezes.
      view_shape: `(h, w, C)` of the encoder's input.
      num_actions: A.
    """

    def __init__(
        self,
        agent: RainbowConfig,
        encoder: EncoderConfig,
        *,
        freeze_through: str,
        view_shape: tuple[int, int, int],
        num_actions: int,
    ) -> None:
        whole = encoders.make_encoder(encoder.name, initializers.UNIFORM, encoder.compute_dtype, encoder.width)
        self.encoder, self.tail = whole.split_after(freeze_through)
        # Any: Flax declares that `apply` may return a tuple.
        self.head: Any = heads.DuelingC51(num_actions, agent.num_atoms, agent.hidden, agent.noise_std)
        self.view_shape = view_shape
        self.boundary_shape = self.encoder.output_shape(view_shape)
        latent_size = math.prod(self.tail.output_shape(self.boundary_shape))
        self.noise_size = sum(self.head.noise_sizes(latent_size))

    def init(self, key: jax.Array) -> base.Params:
        k_encoder, k_tail, k_heads = jax.random.split(key, 3)
        view = jnp.zeros((1, *self.view_shape), jnp.uint8)
        encoder = self.encoder.init(k_encoder, encoders.to_float(view))
        boundary = jnp.zeros((1, *self.boundary_shape))
        tail = self.tail.init(k_tail, boundary)
        latent = encoders.flatten(self.tail.apply(tail, boundary))
        return {"encoder": encoder, "tail": tail, "heads": self.head.init(k_heads, latent)}

    def encode(self, params: base.Params, views: jax.Array) -> jax.Array:
        """Maps `[B, h, w, C]` to `[B, L]`."""
        return encoders.flatten(self.encoder.apply(params["encoder"], views))

    def logits(self, params: base.Params, latent: jax.Array, noise: jax.Array | None) -> jax.Array:
        """Maps `[B, L]` to `[B, num_actions, num_atoms]`."""
        boundary = latent.reshape(-1, *self.boundary_shape)
        return self.head.apply(params["heads"], encoders.flatten(self.tail.apply(params["tail"], boundary)), noise)

    def passes(self, *, frozen: bool) -> tuple[flops.Passes, ...]:
        """Counts the passes of an update: online, selector and target forward, online backward.

        In the frozen phase the frozen stages do not run.
        """
        params = jax.eval_shape(self.init, jax.random.PRNGKey(0))
        view = jax.ShapeDtypeStruct((1, *self.view_shape), jnp.uint8)
        latent = jax.ShapeDtypeStruct((1, math.prod(self.boundary_shape)), jnp.float32)
        noise = jax.ShapeDtypeStruct((self.noise_size,), jnp.float32)
        encoder = flops.Passes(flops.count_macs(self.encode, params, view), forward=3, backward=1)
        trained = flops.Passes(flops.count_macs(self.logits, params, latent, noise), forward=3, backward=1)
        return (trained,) if frozen else (encoder, trained)


def make_networks(config: RunConfig, num_actions: int) -> Networks:
    """Builds the networks of a run."""
    assert isinstance(config.agent, RainbowConfig)
    return Networks(
        config.agent,
        config.encoder,
        freeze_through=config.seer.freeze_through,
        view_shape=registry.view_shape(config.env),
        num_actions=num_actions,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Updates:
    """The updates of both phases, around one loss.

    Attributes:
      networks: the network.
      agent: the section `agent`.
      crop_size: height and width of the encoder's input.
      support: `[A]` atoms.
    """

    networks: Networks
    agent: RainbowConfig
    crop_size: int
    support: jax.Array

    def losses(
        self, params: base.Params, target_params: base.Params, latents: Latents, batch: replay.Batch, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns each transition's cross-entropy to its double-Q target in nats, and its Q-value, both `[B]`.

        What rlax's `categorical_double_q_learning` computes, with fewer kernels.
        """
        support, logits_of = self.support, self.networks.logits
        # One draw for the online network, as published: loss and selector share one perturbed kernel.
        online_noise, target_noise = heads.draw_noises(jax.random.split(key), self.networks.noise_size)
        logits = logits_of(params, latents.obs, online_noise)  # [B, num_actions, A]
        selector_probs = jax.nn.softmax(logits_of(params, latents.selector, online_noise))
        best = platforms.product(selector_probs, support).argmax(axis=-1)
        target_logits = logits_of(target_params, latents.target, target_noise)
        target_probs = jax.nn.softmax(jnp.take_along_axis(target_logits, best[:, None, None], axis=1)[:, 0])  # [B, A]
        returns = batch.reward[:, None] + batch.discount[:, None] * support
        projected = jax.vmap(rlax.categorical_l2_project, in_axes=(0, 0, None))(returns, target_probs, support)
        # A mask, since the gradient of a gather is a scatter.
        taken = jax.nn.one_hot(batch.action, logits.shape[1])[..., None]
        log_probs = jax.nn.log_softmax(jnp.sum(logits * taken, axis=1))  # [B, A]
        losses = -jnp.sum(jax.lax.stop_gradient(projected) * log_probs, axis=-1)
        return losses, platforms.product(jnp.exp(log_probs), support)

    def full(self, state: base.TrainState, batch: replay.Batch, steps: base.Steps) -> Updated:
        encode, obs, next_obs = self.networks.encode, self.view(batch.obs), self.view(batch.next_obs)

        def latents_of(params: base.Params) -> Latents:
            return Latents(
                obs=encode(params, obs),
                selector=encode(jax.lax.stop_gradient(params), next_obs),
                target=encode(state.target_params, next_obs),
            )

        return self._update(latents_of, state, batch, steps)

    def frozen(self, state: base.TrainState, batch: replay.Batch, steps: base.Steps) -> Updated:
        obs, next_obs = batch.obs[:, 0], batch.next_obs[:, 0]
        return self._update(lambda params: Latents(obs=obs, selector=next_obs, target=next_obs), state, batch, steps)

    def view(self, obs: jax.Array) -> jax.Array:
        return augment.centre_crop(obs, self.crop_size)

    def _update(
        self,
        latents_of: Callable[[base.Params], Latents],
        state: base.TrainState,
        batch: replay.Batch,
        steps: base.Steps,
    ) -> Updated:
        _, key = base.update_keys(state)

        def loss_fn(trained: base.Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            params = state.params | trained
            losses, q = self.losses(params, state.target_params, latents_of(params), batch, key)
            return jnp.mean(batch.weight * losses), (losses, q)

        trained = {part: state.params[part] for part in state.opt_state}
        (loss, (losses, q)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        grad_norm = optax.global_norm(grads)
        # A factor that XLA:CPU fuses into the optimizer, where a quotient would be an array of its own.
        scale = jnp.minimum(1.0, self.agent.max_grad_norm / grad_norm)
        clipped = jax.tree.map(lambda grad: grad * scale, grads)
        state = base.apply_gradients(dict.fromkeys(trained, _adam(self.agent)), state, clipped)
        # At agent steps that are multiples of the period, or at the first update after one.
        copy = steps.reach_multiple_of(self.agent.target_update_every)
        online = {part: state.params[part] for part in state.target_params}
        targets = platforms.copy_if(copy, online, state.target_params)
        info = {"loss": loss, "q_mean": q.mean(), "grad_norm": grad_norm}
        return state.replace(target_params=targets, updates=state.updates + 1), losses, info


def _adam(agent: RainbowConfig) -> optax.GradientTransformation:
    return optax.adam(agent.learning_rate, eps=agent.adam_eps)


def make_agent(config: RunConfig, action_spec: specs.DiscreteArray) -> base.Agent:
    """Builds Rainbow for square observations.

    Args:
      config: the configuration of the run.
      action_spec: action of one environment.
    """
    cfg = config.agent
    assert isinstance(cfg, RainbowConfig)
    networks = make_networks(config, action_spec.num_values)
    support = jnp.linspace(-cfg.v_max, cfg.v_max, cfg.num_atoms, dtype=jnp.float32)
    updates = _Updates(networks, cfg, config.env.crop_size, support)

    def init(key: jax.Array) -> base.TrainState:
        k_params, k_state = jax.random.split(key)
        params = networks.init(k_params)
        return base.TrainState(
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            opt_state={part: _adam(cfg).init(p) for part, p in params.items()},
            key=k_state,
            updates=jnp.zeros((), jnp.int32),
        )

    def q_values(params: base.Params, latents: jax.Array, noise: jax.Array | None) -> jax.Array:
        return platforms.product(
            jax.nn.softmax(networks.logits(params, latents[:, 0], noise)), support
        )  # [E, num_actions]

    def act(params: base.Params, latents: jax.Array, key: jax.Array, step: jax.Array) -> jax.Array:
        del step  # noise explores from the first step on
        noise = heads.draw_noise(key, (latents.shape[0], networks.noise_size))  # one draw for each environment
        return q_values(params, latents, noise).argmax(axis=-1).astype(jnp.int32)

    def act_eval(params: base.Params, latents: jax.Array, key: jax.Array) -> jax.Array:
        q = q_values(params, latents, None)
        return rlax.epsilon_greedy(cfg.eval_epsilon).sample(key, q).astype(jnp.int32)

    return base.Agent(
        init=init,
        view=updates.view,
        augment=None,
        encode=lambda params, views: networks.encode(params, views)[:, None],
        stages=lambda params, views: base.all_but_last(networks.encoder.outputs(params["encoder"], views)),
        act=act,
        act_eval=act_eval,
        full=base.Learner((updates.full,), functools.partial(networks.passes, frozen=False)),
        frozen=base.Learner((updates.frozen,), functools.partial(networks.passes, frozen=True)),
        freeze=lambda state: base.freeze_encoder(state, sync_target_heads=config.seer.sync_target_heads),
    )


def _check(config: RunConfig) -> None:
    assert isinstance(config.agent, RainbowConfig)
    if config.seer.num_copies != 1:
        raise ConfigError(
            f"seer.num_copies={config.seer.num_copies}: agent.name=rainbow stores one latent of a row, without"
            " augmentation; set it to 1"
        )
    if _clips_rewards(config) and config.agent.v_max < 1.0:
        raise ConfigError(
            f"agent.v_max={config.agent.v_max} is below 1, the reward of one step with env.clip_rewards; raise it"
        )


def _warnings(config: RunConfig) -> Iterator[str]:
    agent = config.agent
    assert isinstance(agent, RainbowConfig)
    period = agent.target_update_every
    if config.total_steps // period == config.learn_start // period:
        yield (
            f"agent.target_update_every={period} has no multiple between learn_start={config.learn_start} and"
            f" total_steps={config.total_steps}: the target network never changes; lower it"
        )
    if _clips_rewards(config) and agent.discount > 0 and agent.v_max * (1 - agent.discount) > 1 + 1e-6:
        yield (
            f"agent.v_max={agent.v_max} is above {1 / (1 - agent.discount):g}, which no return of clipped rewards"
            f" exceeds with agent.discount={agent.discount}: atoms are unused; lower it"
        )
    if agent.noise_std == 0:
        yield "agent.noise_std=0 leaves the agent without exploration at first; raise it, for example to 0.1"


def _clips_rewards(config: RunConfig) -> bool:
    return getattr(config.env, "clip_rewards", False)  # not every suite has the field


def _stage_names(encoder: EncoderConfig) -> tuple[str, ...]:
    return encoders.make_encoder(encoder.name, initializers.UNIFORM).names


def _latent_shape(config: RunConfig) -> tuple[int, int]:
    return 1, math.prod(make_networks(config, num_actions=1).boundary_shape)


RAINBOW = base.Algorithm(
    config_class=RainbowConfig,
    discrete_actions=True,
    make_agent=make_agent,
    stage_names=_stage_names,
    latent_shape=_latent_shape,
    check=_check,
    warnings=_warnings,
)
