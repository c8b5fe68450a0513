"""What an algorithm gives to the rest of the system: a record of pure functions, and its training state.

An agent never sees the phase. Its training state says what is trained: the parts (`encoder`, `heads`)
that have an optimizer state. Freezing the encoder is dropping its entry.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import struct

from seer_jax import replay

Params = dict[str, Any]
Info = dict[str, jax.Array]


@struct.dataclass
class TrainState:
    """Everything that learning changes.

    Attributes:
      params: parameters of the parts `encoder` and `heads`.
      target_params: the same parts before the freeze; `heads` alone after it, since both sides of a
        transition then share the stored latents.
      opt_state: optimizer state of every part that is being trained.
      key: `[2]` uint32 PRNG key that never changes; update i draws from `fold_in(key, i)`.
      updates: int32 `[]`, updates so far.
    """

    params: Params
    target_params: Params
    opt_state: Params
    key: jax.Array
    updates: jax.Array


class Agent(NamedTuple):
    """Pure functions of one algorithm.

    Attributes:
      init: `key -> TrainState`.
      encode: `(encoder_params, obs [B, H, W, k]) -> latents [B, N, L]` float32.
      act: `(params, latents [E, N, L], key) -> action [E]`, exploring.
      act_eval: the same for evaluation.
      update: `(state, batch of observations) -> (state, loss [B], info)`; the full update.
      update_latent: the same on a batch of latents; trains the heads and runs no encoder.
      has_convolution: whether the full update differentiates an XLA convolution.
      freeze: `TrainState -> TrainState` with the encoder frozen and the targets' encoder tied to it.
    """

    init: Callable[[jax.Array], TrainState]
    encode: Callable[[Any, jax.Array], jax.Array]
    act: Callable[[Params, jax.Array, jax.Array], jax.Array]
    act_eval: Callable[[Params, jax.Array, jax.Array], jax.Array]
    update: Callable[[TrainState, replay.Batch], tuple[TrainState, jax.Array, Info]]
    update_latent: Callable[[TrainState, replay.Batch], tuple[TrainState, jax.Array, Info]]
    has_convolution: bool
    freeze: Callable[[TrainState], TrainState]


def update_keys(state: TrainState) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of the next update: one to sample its batch with, one for the update itself."""
    k_sample, k_update = jax.random.split(jax.random.fold_in(state.key, state.updates))
    return k_sample, k_update


def freeze_encoder(state: TrainState) -> TrainState:
    """Drops the encoder's optimizer state and its target; leaves the heads, their moments and counts alone."""
    return state.replace(
        target_params={"heads": state.target_params["heads"]}, opt_state={"heads": state.opt_state["heads"]}
    )
