"""Rainbow (Hessel et al. 2018, https://arxiv.org/abs/1710.02298) in its data-efficient setting.

Double Q-learning, dueling heads, n-step returns, C51 and noisy layers; prioritized replay is the ring's.
The loss is written once, on latents. The full update feeds it from the encoders, the latent one from the ring.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import rlax
from dm_env import specs
from ml_collections import ConfigDict

from seer_jax import flops, replay
from seer_jax.agents import augment, base
from seer_jax.fields import MANY, ConfigError, Number
from seer_jax.networks import encoders, heads

DISCRETE_ACTIONS = True
FIELDS = {
    "agent.adam_eps": Number("of Adam", 1e-12, 1.0),
    "agent.max_grad_norm": Number("to which gradients are clipped, all parameters together", 1e-6, 1e9),
    "agent.target_update_every": Number("agent steps to a copy of the target network", 1, MANY),
    "agent.num_atoms": Number("of a return's distribution", 2, 1001),
    "agent.v_max": Number("greatest return of the distribution, and the least with a minus", 1e-6, 1e9),
    "agent.noise_std": Number("initial standard deviation of the noisy layers", 0.0, 10.0),
    "agent.eval_epsilon": Number("probability of a random action in an evaluation", 0.0, 1.0),
    "seer.num_copies": Number("latents stored of each row", 1, 1),
}


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


def check(config: ConfigDict) -> None:
    if config.agent.target_update_every % config.update_every:
        raise ConfigError(
            f"agent.target_update_every={config.agent.target_update_every} agent steps is no whole number of"
            f" updates at update_every={config.update_every}; make it a multiple"
        )


def stage_names(config: ConfigDict) -> tuple[str, ...]:
    """Returns the stages that `seer.freeze_through` may name; the last is the paper's choice."""
    return encoders.make_encoder(config.encoder.name, encoders.UNIFORM).names


def latent_shape(config: ConfigDict) -> tuple[int, int]:
    """Returns `(N, L)` of a stored latent, whose L is 0 if the image is too small for the encoder."""
    return 1, math.prod(Networks(config, num_actions=1).boundary_shape)


def updates_per_cycle(config: ConfigDict) -> int:
    return 1


class Networks:
    """The network in its parts: the stages that freeze, those after them, and the heads."""

    def __init__(self, config: ConfigDict, num_actions: int):
        cfg = config.agent
        whole = encoders.make_encoder(config.encoder.name, encoders.UNIFORM, config.encoder.compute_dtype)
        self.encoder, self.tail = whole.split_after(config.seer.freeze_through)
        self.head = heads.DuelingC51(num_actions, cfg.num_atoms, cfg.hidden, cfg.noise_std)
        self.view_shape = base.view_shape(config)
        self.boundary_shape = self.encoder.output_shape(self.view_shape)
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
        return encoders.flatten(self.encoder.apply(params["encoder"], encoders.to_float(views)))

    def logits(self, params: base.Params, latent: jax.Array, noise: jax.Array | None) -> jax.Array:
        """Maps `[B, L]` to `[B, num_actions, num_atoms]`."""
        boundary = latent.reshape(-1, *self.boundary_shape)
        return self.head.apply(params["heads"], encoders.flatten(self.tail.apply(params["tail"], boundary)), noise)

    def passes(self, on_latents: bool) -> tuple[flops.Passes, ...]:
        """Online, selector and target pass forward, online alone backward; on latents the frozen stages don't."""
        params = jax.eval_shape(self.init, jax.random.PRNGKey(0))
        view = jax.ShapeDtypeStruct((1, *self.view_shape), jnp.uint8)
        latent = jax.ShapeDtypeStruct((1, math.prod(self.boundary_shape)), jnp.float32)
        noise = jax.ShapeDtypeStruct((self.noise_size,), jnp.float32)
        frozen = flops.Passes(flops.count_macs(self.encode, params, view), forward=3, backward=1)
        trained = flops.Passes(flops.count_macs(self.logits, params, latent, noise), forward=3, backward=1)
        return (trained,) if on_latents else (frozen, trained)


@dataclasses.dataclass(frozen=True, eq=False)
class _Updates:
    """The two updates, around one loss."""

    networks: Networks
    config: ConfigDict
    support: jax.Array  # [A]

    def losses(
        self, params: base.Params, target_params: base.Params, latents: Latents, batch: replay.Batch, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns each transition's cross-entropy to its double-Q target in nats, and its Q-value, both `[B]`."""
        support, logits_of = self.support, self.networks.logits
        # A loop, since it is a border that XLA:CPU does not fuse across: it would compute the noise of a row or column
        # of a kernel anew for each of its entries.
        noises = jax.lax.map(lambda k: heads.draw_noise(k, (self.networks.noise_size,)), jax.random.split(key, 3))
        online_noise, selector_noise, target_noise = noises
        logits = logits_of(params, latents.obs, online_noise)  # [B, A, atoms]
        target_logits = logits_of(target_params, latents.target, target_noise)
        selector_q = jax.nn.softmax(logits_of(params, latents.selector, selector_noise)) @ support
        loss = jax.vmap(rlax.categorical_double_q_learning, in_axes=(None, 0, 0, 0, 0, None, 0, 0))
        losses = loss(support, logits, batch.action, batch.reward, batch.discount, support, target_logits, selector_q)
        chosen = jnp.take_along_axis(logits, batch.action[:, None, None], axis=1)[:, 0]
        return losses, jax.nn.softmax(chosen) @ support

    def full(self, state: base.TrainState, batch: replay.Batch):
        encode, obs, next_obs = self.networks.encode, self.view(batch.obs), self.view(batch.next_obs)

        def latents_of(params: base.Params) -> Latents:
            return Latents(
                obs=encode(params, obs),
                selector=encode(jax.lax.stop_gradient(params), next_obs),
                target=encode(state.target_params, next_obs),
            )

        return self._update(latents_of, state, batch)

    def latent(self, state: base.TrainState, batch: replay.Batch):
        obs, next_obs = batch.obs[:, 0], batch.next_obs[:, 0]
        return self._update(lambda params: Latents(obs=obs, selector=next_obs, target=next_obs), state, batch)

    def view(self, obs: jax.Array) -> jax.Array:
        return augment.centre_crop(obs, self.config.env.crop_size)

    def _update(self, latents_of, state: base.TrainState, batch: replay.Batch):
        cfg = self.config.agent
        _, key = base.update_keys(state)

        def loss_fn(trained: base.Params):
            params = state.params | trained
            losses, q = self.losses(params, state.target_params, latents_of(params), batch, key)
            return jnp.mean(batch.weight * losses), (losses, q)

        trained = {part: state.params[part] for part in state.opt_state}
        (loss, (losses, q)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        clip, adam = optax.clip_by_global_norm(cfg.max_grad_norm), _adam(self.config)
        clipped, _ = clip.update(grads, clip.init(trained))
        state = base.apply_gradients(dict.fromkeys(trained, adam), state, clipped)
        updates = state.updates + 1
        online = {part: state.params[part] for part in state.target_params}
        period = cfg.target_update_every // self.config.update_every
        targets = optax.periodic_update(online, state.target_params, updates, period)
        info = {"loss": loss, "q_mean": q.mean(), "grad_norm": optax.global_norm(grads)}
        return state.replace(target_params=targets, updates=updates), losses, info


def _adam(config: ConfigDict) -> optax.GradientTransformation:
    return optax.adam(config.agent.learning_rate, eps=config.agent.adam_eps)


def make_agent(config: ConfigDict, action_spec: specs.DiscreteArray) -> base.Agent:
    """Builds Rainbow for square observations.

    Args:
      config: the whole run's configuration.
      action_spec: of one environment's action.
    """
    cfg = config.agent
    networks = Networks(config, action_spec.num_values)
    support = jnp.linspace(-cfg.v_max, cfg.v_max, cfg.num_atoms, dtype=jnp.float32)
    updates = _Updates(networks, config, support)

    def init(key: jax.Array) -> base.TrainState:
        k_params, k_state = jax.random.split(key)
        params = networks.init(k_params)
        return base.TrainState(
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            opt_state={part: _adam(config).init(p) for part, p in params.items()},
            key=k_state,
            updates=jnp.zeros((), jnp.int32),
        )

    def q_values(params: base.Params, latents: jax.Array, noise: jax.Array | None) -> jax.Array:
        return jax.nn.softmax(networks.logits(params, latents[:, 0], noise)) @ support  # [E, num_actions]

    def act(params: base.Params, latents: jax.Array, key: jax.Array, step: jax.Array) -> jax.Array:
        del step  # noise explores from the first step on
        noise = heads.draw_noise(key, (latents.shape[0], networks.noise_size))  # each environment its own
        return q_values(params, latents, noise).argmax(axis=-1).astype(jnp.int32)

    def act_eval(params: base.Params, latents: jax.Array, key: jax.Array) -> jax.Array:
        q = q_values(params, latents, None)
        return rlax.epsilon_greedy(cfg.eval_epsilon).sample(key, q).astype(jnp.int32)

    return base.Agent(
        init=init,
        view=updates.view,
        augment=None,
        encode=lambda params, views: networks.encode(params, views)[:, None],
        act=act,
        act_eval=act_eval,
        updates=(updates.full,),
        latent_updates=(updates.latent,),
        passes=networks.passes,
        has_convolution=networks.encoder.has_convolution or networks.tail.has_convolution,
        latent_has_convolution=networks.tail.has_convolution,
        freeze=lambda state: base.freeze_encoder(state, sync_target_heads=config.seer.sync_target_heads),
    )
