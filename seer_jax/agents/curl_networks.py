"""The networks of CURL-SAC, cut where the encoder freezes.

Actor and critic share the stages up to `dense` and have a dense layer and its normalisation each. The latents of
a state are therefore two, `[N, L]` with N = 2: the critic's first, the actor's second. If the boundary lies
before `dense`, the shared features are stored instead, N = 1, and both dense layers train on with the heads.
"""

import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from seer_jax.agents import base
from seer_jax.networks import encoders, heads

DENSE = "dense"
CRITIC, ACTOR = 0, 1  # along the axis N of latents


def stage_names(config: ConfigDict) -> tuple[str, ...]:
    """Returns the stages that `seer.freeze_through` may name; the last is the paper's choice."""
    return (*encoders.make_encoder(config.encoder.name, encoders.DELTA_ORTHOGONAL).names, DENSE)


def latent_shape(config: ConfigDict) -> tuple[int, int]:
    """Returns `(N, L)` of a stored latent, whose L is 0 if the image is too small for the encoder."""
    networks = Networks(config, action_size=1)
    size = math.prod(networks.boundary_shape)
    return (2, config.agent.latent_size if size else 0) if networks.dense_frozen else (1, size)


class Networks:
    """All networks, as pure functions of the parameters' parts."""

    def __init__(self, config: ConfigDict, action_size: int):
        cfg = config.agent
        trunk = encoders.make_encoder(config.encoder.name, encoders.DELTA_ORTHOGONAL)
        self.dense_frozen = config.seer.freeze_through == DENSE
        self.encoder, self.tail = trunk.split_after(
            trunk.names[-1] if self.dense_frozen else config.seer.freeze_through
        )
        self.dense = encoders.DenseNorm(cfg.latent_size)
        self.critic = heads.TwinQ(cfg.hidden)
        self.policy = heads.GaussianPolicy(action_size, cfg.hidden, cfg.log_std_min, cfg.log_std_max)
        self.view_shape = base.view_shape(config)
        self.boundary_shape = self.encoder.output_shape(self.view_shape)
        self._sizes = cfg.latent_size, action_size
        self._initial_temperature = cfg.initial_temperature

    def init(self, key: jax.Array) -> base.Params:
        k_encoder, k_tail, k_dense, k_actor_dense, k_critic, k_policy, k_contrast = jax.random.split(key, 7)
        encoder = self.encoder.init(k_encoder, jnp.zeros((1, *self.view_shape)))
        boundary = jnp.zeros((1, *self.boundary_shape))
        tail = self.tail.init(k_tail, boundary)
        features = self.tail.apply(tail, boundary)
        dense = {DENSE: self.dense.init(k_dense, features)}
        actor_dense = {DENSE: self.dense.init(k_actor_dense, features)}
        latent_size, action_size = self._sizes
        latent, action = jnp.zeros((1, latent_size)), jnp.zeros((1, action_size))
        frozen, trained = (dense, {}) if self.dense_frozen else ({}, dense)
        actor_frozen, actor_trained = (actor_dense, {}) if self.dense_frozen else ({}, actor_dense)
        return {
            "encoder": encoder | frozen,
            "tail": tail | trained,
            "actor_encoder": actor_frozen,
            "actor_tail": actor_trained,
            "critic": self.critic.init(k_critic, latent, action),
            "actor": self.policy.init(k_policy, latent),
            "log_temperature": jnp.asarray(math.log(self._initial_temperature), jnp.float32),
            "contrast": jax.random.uniform(k_contrast, (latent_size, latent_size)),
        }

    def features(self, params: base.Params, views: jax.Array) -> jax.Array:
        """Maps `[B, h, w, C]` to the output of the last shared frozen stage."""
        return self.encoder.apply(params["encoder"], encoders.to_float(views))

    def latents(self, params: base.Params, features: jax.Array) -> jax.Array:
        """Maps features to what is stored of them, `[B, N, L]`."""
        if not self.dense_frozen:
            return encoders.flatten(features)[:, None]
        dense = params["encoder"][DENSE], params["actor_encoder"][DENSE]
        return jnp.stack([self.dense.apply(p, features) for p in dense], axis=1)

    def critic_latent(self, params: base.Params, latents: jax.Array) -> jax.Array:
        """Maps `[B, N, L]` to the input of the critic, `[B, latent_size]`."""
        if self.dense_frozen:
            return latents[:, CRITIC]
        return self.dense.apply(params["tail"][DENSE], self._after_boundary(params, latents))

    def actor_latent(self, params: base.Params, latents: jax.Array) -> jax.Array:
        """Maps `[B, N, L]` to the input of the policy; shared stages get no gradient from it."""
        if self.dense_frozen:
            return latents[:, ACTOR]
        features = jax.lax.stop_gradient(self._after_boundary(params, latents))
        return self.dense.apply(params["actor_tail"][DENSE], features)

    def _after_boundary(self, params: base.Params, latents: jax.Array) -> jax.Array:
        return self.tail.apply(params["tail"], latents.reshape(-1, *self.boundary_shape))
