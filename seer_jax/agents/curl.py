"""CURL (Laskin et al. 2020, https://arxiv.org/abs/2004.04136): soft actor-critic on crops, and a contrastive loss.

`_Update.__call__` reads in the order of the algorithm. Its critic loss and its contrastive loss share one encoding of
the batch, from before the update; the official code encodes the batch again for the second. As in SEER's published code
the contrastive gradient steps the encoder twice: with the optimizer of the critic loss, and with one of its own. In the
frozen phase there is no contrastive loss.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from dm_env import specs

from seer_jax import flops, replay
from seer_jax.agents import augment, base, losses
from seer_jax.agents.curl_networks import ACTOR, CRITIC, Networks, stage_names
from seer_jax.config import AgentConfig, RunConfig
from seer_jax.envs import registry
from seer_jax.fields import ConfigError, flag, integer, real
from seer_jax.networks import encoders, initializers

_STAGES = ("encoder", "tail")  # parts that the critic's losses train
_ACTOR_PARTS = ("actor_encoder", "actor_tail", "actor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurlConfig(AgentConfig):
    """CURL-SAC. The defaults are the published values."""

    batch_size: int = 128
    learning_rate: float = 1e-3
    hidden: int = 1024
    latent_size: int = integer(50, "units of the dense layer after the convolutions", low=1, high=65_536)
    updates_per_actor_update: int = integer(
        2,
        "updates of the critic for each update of the actor and the temperature",
        low=1,
        high=8,
        former="actor_update_every",
    )
    updates_per_target_update: int = integer(
        2, "updates of the critic for each update of the targets", low=1, high=8, former="target_update_every"
    )
    critic_tau: float = real(0.01, "step size of the target Q-functions towards the Q-functions", low=1e-6, high=1.0)
    encoder_tau: float = real(0.05, "step size of the target encoder towards the encoder", low=1e-6, high=1.0)
    initial_temperature: float = real(0.1, "initial weight of the entropy", low=1e-6, high=1e6)
    temperature_learning_rate: float = real(
        1e-4, "Adam learning rate of the logarithm of the temperature", low=0.0, high=1.0
    )
    temperature_adam_b1: float = real(0.5, "Adam b1 of the logarithm of the temperature", low=0.0, high=0.9999)
    log_std_min: float = real(
        -10.0, "lower bound of the logarithm of the policy's standard deviation", low=-30.0, high=10.0
    )
    log_std_max: float = real(2.0, "upper bound of the same logarithm", low=-30.0, high=10.0)
    double_contrastive_step: bool = flag(
        True,
        "the contrastive loss steps the encoder with the optimizer of the critic loss, too, not with its own alone",
        earlier=False,
    )
    random_steps: int = integer(1000, "agent steps with random actions at the start of the run")


class EncoderInputs(NamedTuple):
    """Inputs of the encoder in an update, `[B, h, w, C]`; in the frozen phase the stored latents, `[B, N, L]`.

    Attributes:
      obs: views of the windows' first observations.
      next_obs: views of the windows' last observations.
      positive: other views of the first observations, for the contrastive loss.
    """

    obs: jax.Array
    next_obs: jax.Array
    positive: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class _Update:
    """One update of a cycle.

    Attributes:
      networks: all networks.
      agent: the section `agent`.
      crop_size: height and width of the encoder's input.
      optimizers: optimizer of each part.
      frozen: whether batches hold latents instead of observations.
      with_actor: whether actor and temperature learn.
      with_targets: whether targets move.
    """

    networks: Networks
    agent: CurlConfig
    crop_size: int
    optimizers: Mapping[str, optax.GradientTransformation]
    frozen: bool
    with_actor: bool
    with_targets: bool

    def __call__(
        self, state: base.TrainState, batch: replay.Batch, steps: base.Steps
    ) -> tuple[base.TrainState, jax.Array, base.Info]:
        """Returns the next state, the critic loss of each transition, `[B]`, and metrics."""
        del steps  # all of its cadences are numbers of updates
        _, key = base.update_keys(state)
        k_views, k_target, k_actor = jax.random.split(key, 3)
        inputs = self._augment(k_views, batch)

        # One forward pass serves the critic loss and the contrastive loss. Each has a backward pass of its own.
        stages = {part: state.params[part] for part in _STAGES if part in state.opt_state}
        latent, backward = jax.vjp(lambda stages: self._latent(state.params | stages, inputs.obs, CRITIC), stages)

        # 1. Critic and its encoder.
        target = self._td_target(state, inputs, batch, k_target)
        critic_loss_and_grad = jax.value_and_grad(self._critic_loss, argnums=(0, 1), has_aux=True)
        (critic_loss, (critic_losses, q)), (critic_grad, latent_grad) = critic_loss_and_grad(
            state.params["critic"], latent, batch, target
        )
        (stage_grads,) = backward(latent_grad)
        new = base.apply_gradients(self.optimizers, state, stage_grads | {"critic": critic_grad})
        info = {"loss": critic_loss, "critic_loss": critic_loss, "q_mean": q.mean()}

        # 2. Actor and its dense layer against the new critic, on the latents of the new encoder; then the temperature.
        if self.with_actor:
            features = jax.lax.stop_gradient(self._features(new.params, inputs.obs))
            trained = {part: new.params[part] for part in _ACTOR_PARTS if part in new.opt_state}
            actor_loss_and_grad = jax.value_and_grad(self._actor_loss, has_aux=True)
            (actor_loss, log_prob), grads = actor_loss_and_grad(trained, new.params, features, k_actor)
            log_temperature = new.params["log_temperature"]
            grads["log_temperature"] = jax.grad(self._temperature_loss)(log_temperature, log_prob)
            info |= {
                "actor_loss": actor_loss,
                "entropy": -log_prob.mean(),
                "temperature": jnp.exp(log_temperature),
            }
            new = base.apply_gradients(self.optimizers, new, grads)

        # 3. Encoder and bilinear product on the contrastive loss.
        if "contrast" in state.opt_state:
            positive = self._latent(state.params | state.target_params, inputs.positive, CRITIC)
            contrast_loss_and_grad = jax.value_and_grad(self._contrastive_loss, argnums=(0, 1))
            contrast_loss, (product_grad, latent_grad) = contrast_loss_and_grad(
                new.params["contrast"], latent, positive
            )
            (stage_grads,) = backward(latent_grad)
            new = self._contrastive_step(new, stage_grads, product_grad)
            info |= {"loss": critic_loss + contrast_loss, "contrast_loss": contrast_loss}

        # 4. Targets: one rate for the encoder, another for the Q-functions.
        if self.with_targets:
            new = new.replace(target_params=self._moved_targets(new))
        return new.replace(updates=new.updates + 1), critic_losses, info

    def _critic_loss(
        self, critic: base.Params, latent: jax.Array, batch: replay.Batch, target: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Returns the weighted mean loss, each transition's loss, `[B]`, and its Q-values, `[B, 2]`."""
        q = self.networks.critic.apply(critic, latent, batch.action)  # [B, 2]
        q_losses = jax.vmap(losses.twin_q_loss)(q, target)
        return jnp.mean(batch.weight * q_losses), (q_losses, q)

    def _actor_loss(
        self, trained: base.Params, params: base.Params, features: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the mean loss and the log-densities of the actions drawn, `[B]`."""
        nets = self.networks
        critic_latent = self._latent_of_features(params, features, CRITIC)
        params = params | trained
        action, log_prob = self._policy(params, features).sample_and_log_prob(seed=key)
        q = nets.critic.apply(params["critic"], critic_latent, action)
        temperature = jnp.exp(params["log_temperature"])
        return jax.vmap(losses.policy_loss, in_axes=(0, 0, None))(q, log_prob, temperature).mean(), log_prob

    def _temperature_loss(self, log_temperature: jax.Array, log_prob: jax.Array) -> jax.Array:
        """Returns the mean loss; the target of the entropy is minus the number of action dimensions."""
        target_entropy = -float(self.networks.policy.action_size)
        loss = jax.vmap(losses.temperature_loss, in_axes=(None, 0, None))
        return loss(log_temperature, log_prob, target_entropy).mean()

    def _contrastive_loss(self, product: jax.Array, latent: jax.Array, positive: jax.Array) -> jax.Array:
        return losses.info_nce(latent, positive, product).mean()

    def _td_target(
        self, state: base.TrainState, inputs: EncoderInputs, batch: replay.Batch, key: jax.Array
    ) -> jax.Array:
        """Returns the soft target of both Q-functions, `[B]`."""
        nets, params = self.networks, state.params
        target_params = params | state.target_params
        policy = self._policy(params, self._features(params, inputs.next_obs))
        action, log_prob = policy.sample_and_log_prob(seed=key)
        next_latent = self._latent(target_params, inputs.next_obs, CRITIC)
        next_q = nets.critic.apply(target_params["critic"], next_latent, action)
        soft_target = jax.vmap(losses.soft_td_target, in_axes=(0, 0, 0, 0, None))
        return soft_target(batch.reward, batch.discount, next_q, log_prob, jnp.exp(params["log_temperature"]))

    def _contrastive_step(
        self, state: base.TrainState, stage_grads: base.Params, product_grad: jax.Array
    ) -> base.TrainState:
        """Steps the encoder with the optimizer of the critic loss, then encoder and product with the contrast's own."""
        if self.agent.double_contrastive_step:
            state = base.apply_gradients(self.optimizers, state, stage_grads)
        grads = stage_grads | {"contrast": product_grad}
        step, opt_state = self.optimizers["contrast"].update(grads, state.opt_state["contrast"])
        moved: Any = optax.apply_updates({part: state.params[part] for part in grads}, step)
        return state.replace(params=state.params | moved, opt_state=state.opt_state | {"contrast": opt_state})

    def _moved_targets(self, state: base.TrainState) -> base.Params:
        tau = {"encoder": self.agent.encoder_tau, "tail": self.agent.encoder_tau, "critic": self.agent.critic_tau}
        return {
            part: optax.incremental_update(state.params[part], target, tau[part])
            for part, target in state.target_params.items()
        }

    def _augment(self, key: jax.Array, batch: replay.Batch) -> EncoderInputs:
        """Crops observations at random; stored latents are those of crops already."""
        if self.frozen:
            return EncoderInputs(batch.obs, batch.next_obs, positive=batch.obs)
        k_obs, k_next_obs, k_positive = jax.random.split(key, 3)
        crop = functools.partial(augment.random_crop, size=self.crop_size)
        return EncoderInputs(crop(k_obs, batch.obs), crop(k_next_obs, batch.next_obs), crop(k_positive, batch.obs))

    def _features(self, params: base.Params, views: jax.Array) -> jax.Array:
        """Maps views to features; in the frozen phase both are the stored latents."""
        return views if self.frozen else self.networks.features(params, views)

    def _latent_of_features(self, params: base.Params, features: jax.Array, which: int) -> jax.Array:
        nets = self.networks
        return (nets.stored_latent if self.frozen else nets.latent)(params, features, which)

    def _latent(self, params: base.Params, views: jax.Array, which: int) -> jax.Array:
        """Maps views to the input of the heads of critic or actor, `[B, latent_size]`."""
        return self._latent_of_features(params, self._features(params, views), which)

    def _policy(self, params: base.Params, features: jax.Array) -> Any:
        """Returns the distribution over actions, `[B, A]`."""
        return self.networks.policy.apply(params["actor"], self._latent_of_features(params, features, ACTOR))


def _passes(networks: Networks, agent: CurlConfig, *, frozen: bool) -> tuple[flops.Passes, ...]:
    """Returns the passes of one update through each network, the mean over a cycle."""
    actor = 1 / agent.updates_per_actor_update
    contrast = 0 if frozen else 1
    # Forward: observation, next observation for target and policy, positive, and the actor's encoding after the step.
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
    not_run = ("encoder", "critic_dense", "actor_dense") if networks.dense_frozen else ("encoder",)
    macs = networks.macs()
    return tuple(p._replace(macs=macs[name]) for name, p in each.items() if not (frozen and name in not_run))


def _make_optimizers(agent: CurlConfig) -> Mapping[str, optax.GradientTransformation]:
    """Returns the optimizer of each part; that of `contrast` steps the encoder, too."""
    adam = optax.adam(agent.learning_rate)
    temperature = optax.adam(agent.temperature_learning_rate, b1=agent.temperature_adam_b1)
    return dict.fromkeys((*_STAGES, "critic", "contrast", *_ACTOR_PARTS), adam) | {"log_temperature": temperature}


def make_networks(config: RunConfig, action_size: int) -> Networks:
    """Builds the networks of a run."""
    agent = config.agent
    assert isinstance(agent, CurlConfig)
    return Networks(
        config.encoder,
        freeze_through=config.seer.freeze_through,
        view_shape=registry.view_shape(config.env),
        latent_size=agent.latent_size,
        hidden=agent.hidden,
        action_size=action_size,
        log_std_bounds=(agent.log_std_min, agent.log_std_max),
        initial_temperature=agent.initial_temperature,
    )


def make_agent(config: RunConfig, action_spec: specs.BoundedArray) -> base.Agent:
    """Builds CURL for square observations and actions between -1 and 1.

    Args:
      config: the configuration of the run.
      action_spec: action of one environment.
    """
    cfg, size = config.agent, config.env.crop_size
    assert isinstance(cfg, CurlConfig)
    (action_size,) = action_spec.shape
    networks, optimizers = make_networks(config, action_size), _make_optimizers(cfg)

    def init(key: jax.Array) -> base.TrainState:
        k_params, k_state = jax.random.split(key)
        params = networks.init(k_params)
        contrasted = {"contrast": {part: params[part] for part in (*_STAGES, "contrast")}}
        return base.TrainState(
            params=params,
            target_params={part: jax.tree.map(jnp.copy, params[part]) for part in (*_STAGES, "critic")},
            opt_state={part: optimizers[part].init(p) for part, p in (params | contrasted).items()},
            key=k_state,
            updates=jnp.zeros((), jnp.int32),
        )

    def views_to_store(key: jax.Array, obs: jax.Array) -> jax.Array:
        keys = jax.random.split(key, config.seer.num_copies)
        return jax.vmap(augment.random_crop, in_axes=(0, None, None), out_axes=1)(keys, obs, size)  # [B, K, h, w, C]

    def policy(params: base.Params, latents: jax.Array) -> Any:
        return networks.policy.apply(params["actor"], networks.stored_latent(params, latents, ACTOR))

    def act(params: base.Params, latents: jax.Array, key: jax.Array, step: jax.Array) -> jax.Array:
        k_random, k_policy = jax.random.split(key)
        num_envs = latents.shape[0]
        random = jax.random.uniform(k_random, (num_envs, action_size), minval=-1.0, maxval=1.0)
        return jnp.where(step * num_envs < cfg.random_steps, random, policy(params, latents).sample(seed=k_policy))

    def stages(params: base.Params, views: jax.Array) -> dict[str, jax.Array]:
        outputs = networks.encoder.outputs(params["encoder"], views)
        return outputs if networks.dense_frozen else base.all_but_last(outputs)

    def act_eval(params: base.Params, latents: jax.Array, key: jax.Array) -> jax.Array:
        del key  # the mode of the Gaussian before tanh
        distribution = policy(params, latents)
        return distribution.bijector.forward(distribution.distribution.mode())

    def learner(*, frozen: bool) -> base.Learner:
        make_update = functools.partial(_Update, networks, cfg, size, optimizers, frozen)
        return base.Learner(
            updates=tuple(
                make_update(i % cfg.updates_per_actor_update == 0, i % cfg.updates_per_target_update == 0)
                for i in range(_updates_per_cycle(cfg))
            ),
            passes=functools.partial(_passes, networks, cfg, frozen=frozen),
        )

    return base.Agent(
        init=init,
        view=lambda obs: augment.centre_crop(obs, size),
        augment=views_to_store,
        encode=lambda params, views: networks.latents(params, networks.features(params, views)),
        stages=stages,
        act=act,
        act_eval=act_eval,
        full=learner(frozen=False),
        frozen=learner(frozen=True),
        freeze=lambda state: base.freeze_encoder(
            state, sync_target_heads=config.seer.sync_target_heads, dropped=("contrast",)
        ),
    )


def _updates_per_cycle(agent: CurlConfig) -> int:
    return math.lcm(agent.updates_per_actor_update, agent.updates_per_target_update)


def _check(config: RunConfig) -> None:
    assert isinstance(config.agent, CurlConfig)
    if config.agent.log_std_min > config.agent.log_std_max:
        raise ConfigError(
            f"agent.log_std_min={config.agent.log_std_min} is above agent.log_std_max={config.agent.log_std_max};"
            " lower it"
        )
    channels, inputs = registry.frame_shape(config.env)[-1], registry.view_shape(config.env)[-1]
    encoder, init_fns = config.encoder, initializers.DELTA_ORTHOGONAL
    first = encoders.make_encoder(encoder.name, init_fns, width=encoder.width).stages[0].module
    outputs = getattr(first, "features", inputs)  # an encoder in Haiku initializes itself
    if inputs > outputs:
        raise ConfigError(
            f"env.frame_stack={config.env.frame_stack} gives the encoder {inputs} channels, and the first convolution"
            f" of encoder.name={config.encoder.name}, which agent.name=curl_sac initializes orthogonally, takes at most"
            f" {outputs}; lower it to at most {outputs // channels}"
        )


def _warnings(config: RunConfig) -> Iterator[str]:
    assert isinstance(config.agent, CurlConfig)
    if config.agent.random_steps >= config.total_steps:
        yield (
            f"agent.random_steps={config.agent.random_steps} covers all total_steps={config.total_steps}: the policy"
            " acts in evaluations only; lower it"
        )
    if config.agent.discount == 1:
        yield "agent.discount=1 gives tasks that never terminate unbounded values; lower it, for example to 0.99"
    if config.env.crop_size == config.env.image_size:
        yield (
            f"env.crop_size={config.env.crop_size} is env.image_size: all random crops of an image are equal, also"
            " those that the contrastive loss compares; lower env.crop_size"
        )


CURL_SAC = base.Algorithm(
    config_class=CurlConfig,
    discrete_actions=False,
    make_agent=make_agent,
    stage_names=stage_names,
    latent_shape=lambda config: make_networks(config, action_size=1).latent_shape,
    updates_per_cycle=_updates_per_cycle,
    check=_check,
    warnings=_warnings,
)
