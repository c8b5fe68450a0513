"""The networks of CURL-SAC, split at the stage where the encoder freezes.

Actor and critic share the stages before `dense`. Each has a dense layer and a layer normalisation of its own. A state
therefore has two latents, `[N, L]` with N = 2: first the critic's, then the actor's. If the boundary lies before
`dense`, the shared features are stored instead, N = 1, and both dense layers continue to train with the heads.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from seer_jax import flops
from seer_jax.agents import base
from seer_jax.config import EncoderConfig
from seer_jax.networks import encoders, heads, initializers

DENSE = "dense"
CRITIC, ACTOR = 0, 1  # along the axis N of latents
_DENSE_PARTS = {CRITIC: ("encoder", "tail"), ACTOR: ("actor_encoder", "actor_tail")}  # if frozen, if trained


def stage_names(encoder: EncoderConfig) -> tuple[str, ...]:
    """Returns the stages that `seer.freeze_through` may hold; the last is the paper's choice."""
    return (*encoders.make_encoder(encoder.name, initializers.DELTA_ORTHOGONAL).names, DENSE)


class Networks:
    """All networks, as pure functions of the parameters' parts.

    Args:
      encoder: the section `encoder`.
      freeze_through: last stage that freezes.
      view_shape: `(h, w, C)` of the encoder's input.
      latent_size: units of the dense layers.
      hidden: units of a hidden layer of critic and actor.
      action_size: A.
      log_std_bounds: lower and upper bound of the policy's log standard deviation.
      initial_temperature: initial weight of the entropy.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        *,
        freeze_through: str,
        view_shape: tuple[int, int, int],
        latent_size: int,
        hidden: int,
        action_size: int,
        log_std_bounds: tuple[float, float],
        initial_temperature: float,
    ) -> None:
        trunk = encoders.make_encoder(encoder.name, initializers.DELTA_ORTHOGONAL, encoder.compute_dtype, encoder.width)
        self.dense_frozen = freeze_through == DENSE
        self.encoder, self.tail = trunk.split_after(trunk.names[-1] if self.dense_frozen else freeze_through)
        # Any: Flax declares that `apply` may return a tuple.
        self.dense: Any = encoders.DenseNorm(latent_size)
        self.critic: Any = heads.TwinQ(hidden)
        self.policy: Any = heads.GaussianPolicy(action_size, hidden, *log_std_bounds)
        self.view_shape = view_shape
        self.boundary_shape = self.encoder.output_shape(view_shape)
        self._sizes = latent_size, action_size
        self._initial_temperature = initial_temperature

    @property
    def latent_shape(self) -> tuple[int, int]:
        """`(N, L)` of a stored latent; L is 0 if the image is too small for the encoder."""
        size = math.prod(self.boundary_shape)
        return (2, self._sizes[0] if size else 0) if self.dense_frozen else (1, size)

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
        return self.encoder.apply(params["encoder"], views)

    def latents(self, params: base.Params, features: jax.Array) -> jax.Array:
        """Maps features to the latents that are stored, `[B, N, L]`."""
        if not self.dense_frozen:
            return encoders.flatten(features)[:, None]
        return jnp.stack([self.latent(params, features, which) for which in (CRITIC, ACTOR)], axis=1)

    def latent(self, params: base.Params, features: jax.Array, which: int) -> jax.Array:
        """Maps features to the input of the heads of critic or actor, `[B, latent_size]`."""
        features = self.tail.apply(params["tail"], features)
        if which == ACTOR:
            features = jax.lax.stop_gradient(features)  # shared stages learn from the critic
        frozen, trained = _DENSE_PARTS[which]
        return self.dense.apply(params[frozen if self.dense_frozen else trained][DENSE], features)

    def stored_latent(self, params: base.Params, latents: jax.Array, which: int) -> jax.Array:
        """Maps `[B, N, L]` to the input of the heads of critic or actor, `[B, latent_size]`."""
        if self.dense_frozen:
            return latents[:, which]
        return self.latent(params, latents.reshape(-1, *self.boundary_shape), which)

    def macs(self) -> dict[str, float]:
        """Returns multiply-accumulates of a pass forward through each network, on one sample."""
        key = jax.random.PRNGKey(0)
        params = jax.eval_shape(self.init, key)
        latent_size, action_size = self._sizes
        view, boundary, latent, action = (
            jax.ShapeDtypeStruct((1, *shape), jnp.float32)
            for shape in (self.view_shape, self.boundary_shape, (latent_size,), (action_size,))
        )
        features = jax.eval_shape(self.tail.apply, params["tail"], boundary)
        dense = (params["encoder"] if self.dense_frozen else params["tail"])[DENSE]
        return {
            "encoder": flops.count_macs(self.encoder.apply, params["encoder"], view),
            "tail": flops.count_macs(self.tail.apply, params["tail"], boundary),
            "critic_dense": flops.count_macs(self.dense.apply, dense, features),
            "actor_dense": flops.count_macs(self.dense.apply, dense, features),
            "critic": flops.count_macs(self.critic.apply, params["critic"], latent, action),
            "policy": flops.count_macs(lambda p, x: self.policy.apply(p, x).sample(seed=key), params["actor"], latent),
            "contrast": latent_size**2,
        }
