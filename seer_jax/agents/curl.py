"""CURL (Laskin et al. 2020, https://arxiv.org/abs/2004.04136): soft actor-critic on crops, and a contrastive loss.

What one update does, in order:
  1. critic and its encoder, on the Q-loss;
  2. at every `actor_update_every`th update the policy and the actor's own dense layer, against the new critic and
     the latents of its new encoder, then the temperature; shared stages get no gradient from the actor;
  3. encoder and bilinear product, on the contrastive loss;
  4. at every `target_update_every`th update the targets, at one rate for encoders and another for Q-functions.
Steps 1 and 3 share one encoding of the batch, from before the update, where the official code encodes it anew. Each has
an optimizer of its own, so that neither loss sets the size of the other's steps; the official code takes a second step
with the encoder in 3, and moves the targets before it. After the freeze nothing is left of 3.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from dm_env import specs
from ml_collections import ConfigDict

from seer_jax import flops, replay
from seer_jax.agents import augment, base, losses
from seer_jax.agents.curl_networks import ACTOR, CRITIC, Networks, latent_shape, stage_names
from seer_jax.fields import MANY, ConfigError, Number

__all__ = ["DISCRETE_ACTIONS", "FIELDS", "check", "latent_shape", "make_agent", "stage_names", "updates_per_cycle"]

DISCRETE_ACTIONS = False
FIELDS = {
    "agent.latent_size": Number("units of the dense layer after the convolutions", 1, 65_536),
    "agent.target_update_every": Number("updates to a step of the targets", 1, 8),
    "agent.actor_update_every": Number("updates to one of the actor and the temperature", 1, 8),
    "agent.critic_tau": Number("step of the target Q-functions towards the Q-functions", 0.0, 1.0),
    "agent.encoder_tau": Number("step of the target encoder towards the encoder", 0.0, 1.0),
    "agent.initial_temperature": Number("of the entropy", 1e-6, 1e6),
    "agent.temperature_learning_rate": Number("of Adam on the temperature's logarithm", 0.0, 1.0),
    "agent.temperature_adam_b1": Number("of Adam on the temperature's logarithm", 0.0, 0.9999),
    "agent.log_std_min": Number("least logarithm of the policy's standard deviation", -30.0, 10.0),
    "agent.log_std_max": Number("greatest", -30.0, 10.0),
    "agent.random_steps": Number("agent steps with random actions at first", 0, MANY),
}


def check(config: ConfigDict) -> None:
    if config.agent.log_std_min > config.agent.log_std_max:
        raise ConfigError(
            f"agent.log_std_min={config.agent.log_std_min} is above agent.log_std_max={config.agent.log_std_max}"
        )


def updates_per_cycle(config: ConfigDict) -> int:
    """Returns after how many updates the pattern of actor and target updates repeats."""
    return math.lcm(config.agent.actor_update_every, config.agent.target_update_every)


class Seen(NamedTuple):
    """What an update sees of a batch, through `Networks.features` or instead of it.

    Attributes:
      obs: where the windows start.
      next_obs: where they end.
      positive: obs under another crop, if not the stored latents themselves.
    """

    obs: jax.Array
    next_obs: jax.Array
    positive: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class _Update:
    """One update of a cycle; full, or on latents.

    Attributes:
      networks: all networks.
      config: the whole run's configuration.
      on_latents: whether batches hold latents.
      with_actor: whether actor and temperature learn.
      with_targets: whether targets move.
    """

    networks: Networks
    config: ConfigDict
    on_latents: bool
    with_actor: bool
    with_targets: bool

    def __call__(self, state: base.TrainState, batch: replay.Batch):
        _, key = base.update_keys(state)
        k_views, k_target, k_actor = jax.random.split(key, 3)
        seen = self._see(k_views, batch)
        stages = {part: state.params[part] for part in ("encoder", "tail") if part in state.opt_state}
        # One pass forward for the Q-loss and the contrastive loss, and one backward for each.
        latent, backward = jax.vjp(lambda stages: self._critic_latent(state.params | stages, seen.obs), stages)
        target = self._td_target(state, seen, batch, k_target)
        new, critic_losses, info = self._update_critic(state, latent, backward, batch, target)
        if self.with_actor:
            # The new critic must see what it was fitted to: the latents of its own encoder, not those before its step.
            new, actor_info = self._update_actor(new, self._features(new.params, seen.obs), k_actor)
            info |= actor_info
        if "contrast" in state.opt_state:
            positive = self._critic_latent(state.params | state.target_params, seen.positive)
            new, contrast_loss = self._contrast(new, latent, backward, positive)
            info |= {"loss": info["critic_loss"] + contrast_loss, "contrast_loss": contrast_loss}
        if self.with_targets:
            new = new.replace(target_params=self._moved_targets(new))
        return new.replace(updates=state.updates + 1), critic_losses, info

    def _see(self, key: jax.Array, batch: replay.Batch) -> Seen:
        if self.on_latents:
            return Seen(batch.obs, batch.next_obs, positive=batch.obs)
        views = (batch.obs, batch.next_obs, batch.obs)
        size = self.config.env.crop_size
        return Seen(*(augment.random_crop(k, x, size) for k, x in zip(jax.random.split(key, 3), views, strict=True)))

    def _features(self, params: base.Params, seen: jax.Array) -> jax.Array:
        return seen if self.on_latents else self.networks.features(params, seen)

    def _latent(self, params: base.Params, features: jax.Array, which: int) -> jax.Array:
        nets = self.networks
        return (nets.stored_latent if self.on_latents else nets.latent)(params, features, which)

    def _critic_latent(self, params: base.Params, seen: jax.Array) -> jax.Array:
        return self._latent(params, self._features(params, seen), CRITIC)

    def _td_target(self, state: base.TrainState, seen: Seen, batch: replay.Batch, key: jax.Array) -> jax.Array:
        nets, params = self.networks, state.params
        target_params = params | state.target_params
        policy = self._policy(params, self._features(params, seen.next_obs))
        action, log_prob = policy.sample_and_log_prob(seed=key)
        next_q = nets.critic.apply(target_params["critic"], self._critic_latent(target_params, seen.next_obs), action)
        soft_target = jax.vmap(losses.soft_td_target, in_axes=(0, 0, 0, 0, None))
        return soft_target(batch.reward, batch.discount, next_q, log_prob, jnp.exp(params["log_temperature"]))

    def _policy(self, params: base.Params, features: jax.Array):
        return self.networks.policy.apply(params["actor"], self._latent(params, features, ACTOR))

    def _update_critic(
        self, state: base.TrainState, latent: jax.Array, backward, batch: replay.Batch, target: jax.Array
    ):
        """Returns the new state, losses `[B]`, and info; `backward` maps gradients of `latent` to those of stages."""

        def loss_fn(critic: base.Params, latent: jax.Array):
            q = self.networks.critic.apply(critic, latent, batch.action)  # [B, 2]
            q_losses = jax.vmap(losses.twin_q_loss)(q, target)
            return jnp.mean(batch.weight * q_losses), (q_losses, q)

        loss_and_grad = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
        (loss, (q_losses, q)), (critic_grad, latent_grad) = loss_and_grad(state.params["critic"], latent)
        (stage_grads,) = backward(latent_grad)
        new = base.apply_gradients(optimizers(self.config), state, stage_grads | {"critic": critic_grad})
        return new, q_losses, {"loss": loss, "critic_loss": loss, "q_mean": q.mean()}

    def _contrast(self, state: base.TrainState, latent: jax.Array, backward, positive: jax.Array):
        """Moves encoder and product against the contrastive loss; returns the new state and the loss."""

        def loss_fn(product: jax.Array, latent: jax.Array):
            return losses.info_nce(latent, positive, product).mean()

        loss_and_grad = jax.value_and_grad(loss_fn, argnums=(0, 1))
        loss, (product_grad, latent_grad) = loss_and_grad(state.params["contrast"], latent)
        (stage_grads,) = backward(latent_grad)
        grads = stage_grads | {"contrast": product_grad}
        step, opt_state = optimizers(self.config)["contrast"].update(grads, state.opt_state["contrast"])
        moved = optax.apply_updates({part: state.params[part] for part in step}, step)
        return state.replace(params=state.params | moved, opt_state=state.opt_state | {"contrast": opt_state}), loss

    def _update_actor(self, state: base.TrainState, features: jax.Array, key: jax.Array):
        nets = self.networks
        features = jax.lax.stop_gradient(features)
        critic_latent = self._latent(state.params, features, CRITIC)

        def loss_fn(trained: base.Params):
            params = state.params | trained
            action, log_prob = self._policy(params, features).sample_and_log_prob(seed=key)
            q = nets.critic.apply(params["critic"], critic_latent, action)
            temperature = jnp.exp(params["log_temperature"])
            loss = jax.vmap(losses.policy_loss, in_axes=(0, 0, None))(q, log_prob, temperature).mean()
            return loss, log_prob

        parts = ("actor_encoder", "actor_tail", "actor")
        trained = {part: state.params[part] for part in parts if part in state.opt_state}
        (actor_loss, log_prob), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        target_entropy = -float(nets.policy.action_size)

        def temperature_loss_fn(log_temperature: jax.Array):
            loss = jax.vmap(losses.temperature_loss, in_axes=(None, 0, None))
            return loss(log_temperature, log_prob, target_entropy).mean()

        grads["log_temperature"] = jax.grad(temperature_loss_fn)(state.params["log_temperature"])
        info = {
            "actor_loss": actor_loss,
            "entropy": -log_prob.mean(),
            "temperature": jnp.exp(state.params["log_temperature"]),
        }
        return base.apply_gradients(optimizers(self.config), state, grads), info

    def _moved_targets(self, state: base.TrainState) -> base.Params:
        cfg = self.config.agent
        tau = {"encoder": cfg.encoder_tau, "tail": cfg.encoder_tau, "critic": cfg.critic_tau}
        return {
            part: optax.incremental_update(state.params[part], target, tau[part])
            for part, target in state.target_params.items()
        }


def passes(networks: Networks, config: ConfigDict, on_latents: bool) -> tuple[flops.Passes, ...]:
    """Returns the passes of one update through each network, the mean over a cycle."""
    actor = 1 / config.agent.actor_update_every
    contrast = 0 if on_latents else 1
    # Forward: observation, next observation for the target and for the policy, positive, the actor's fresh encoding.
    shared = flops.Passes(0, forward=3 + actor + contrast, backward=1 + contrast)
    each = {
        "encoder": shared,
        "tail": shared,
        "critic_dense": shared._replace(forward=2 + actor + contrast),
        "actor_dense": flops.Passes(0, forward=1 + actor, backward=actor),
        "critic": flops.Passes(0, forward=2 + actor, backward=1 + actor),
        "policy": flops.Passes(0, forward=1 + actor, backward=actor),
        "contrast": flops.Passes(0, forward=contrast, backward=contrast),
    }
    frozen = ("encoder", "critic_dense", "actor_dense") if networks.dense_frozen else ("encoder",)
    macs = networks.macs()
    return tuple(p._replace(macs=macs[name]) for name, p in each.items() if not (on_latents and name in frozen))


def optimizers(config: ConfigDict) -> dict[str, Any]:
    """Returns the optimizer of every part."""
    cfg = config.agent
    adam = optax.adam(cfg.learning_rate)
    parts = ("encoder", "tail", "critic", "contrast", "actor_encoder", "actor_tail", "actor")
    temperature = optax.adam(cfg.temperature_learning_rate, b1=cfg.temperature_adam_b1)
    return dict.fromkeys(parts, adam) | {"log_temperature": temperature}


def make_agent(config: ConfigDict, action_spec: specs.BoundedArray) -> base.Agent:
    """Builds CURL for square observations and actions between -1 and 1.

    Args:
      config: the whole run's configuration.
      action_spec: of one environment's action.
    """
    cfg, size = config.agent, config.env.crop_size
    (action_size,) = action_spec.shape
    networks = Networks(config, action_size)
    dropped = ("contrast",)

    def init(key: jax.Array) -> base.TrainState:
        k_params, k_state = jax.random.split(key)
        params = networks.init(k_params)
        optimizer = optimizers(config)
        # The contrastive loss moves the encoder by steps of its own.
        contrasted = {"contrast": {part: params[part] for part in ("encoder", "tail", "contrast")}}
        return base.TrainState(
            params=params,
            target_params={part: jax.tree.map(jnp.copy, params[part]) for part in ("encoder", "tail", "critic")},
            opt_state={part: optimizer[part].init(p) for part, p in (params | contrasted).items()},
            key=k_state,
            updates=jnp.zeros((), jnp.int32),
        )

    def views_to_store(key: jax.Array, obs: jax.Array) -> jax.Array:
        keys = jax.random.split(key, config.seer.num_copies)
        return jax.vmap(augment.random_crop, in_axes=(0, None, None), out_axes=1)(keys, obs, size)  # [B, K, h, w, C]

    def policy(params: base.Params, latents: jax.Array):
        return networks.policy.apply(params["actor"], networks.stored_latent(params, latents, ACTOR))

    def act(params: base.Params, latents: jax.Array, key: jax.Array, step: jax.Array) -> jax.Array:
        k_random, k_policy = jax.random.split(key)
        num_envs = latents.shape[0]
        random = jax.random.uniform(k_random, (num_envs, action_size), minval=-1.0, maxval=1.0)
        return jnp.where(step * num_envs < cfg.random_steps, random, policy(params, latents).sample(seed=k_policy))

    def act_eval(params: base.Params, latents: jax.Array, key: jax.Array) -> jax.Array:
        del key  # the mode of the unsquashed Gaussian
        distribution = policy(params, latents)
        return distribution.bijector.forward(distribution.distribution.mode())

    def cycle(on_latents: bool) -> tuple[_Update, ...]:
        return tuple(
            _Update(networks, config, on_latents, i % cfg.actor_update_every == 0, i % cfg.target_update_every == 0)
            for i in range(updates_per_cycle(config))
        )

    return base.Agent(
        init=init,
        view=lambda obs: augment.centre_crop(obs, size),
        augment=views_to_store,
        encode=lambda params, views: networks.latents(params, networks.features(params, views)),
        act=act,
        act_eval=act_eval,
        updates=cycle(on_latents=False),
        latent_updates=cycle(on_latents=True),
        passes=functools.partial(passes, networks, config),
        has_convolution=networks.encoder.has_convolution or networks.tail.has_convolution,
        latent_has_convolution=networks.tail.has_convolution,
        freeze=lambda state: base.freeze_encoder(
            state, sync_target_heads=config.seer.sync_target_heads, dropped=dropped
        ),
    )
