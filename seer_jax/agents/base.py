"""The records that an algorithm consists of: its facts, its pure functions and its training state.

Parameters are a dictionary of parts. The parts that have an optimizer state are those that are trained: a freeze drops
the entries of the parts that hold the encoder.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from seer_jax import flops, replay
from seer_jax.config import AgentConfig, EncoderConfig, RunConfig

Params = dict[str, Any]
Info = dict[str, jax.Array]
Update = Callable[["TrainState", replay.Batch, "Steps"], tuple["TrainState", jax.Array, Info]]

# Parts that hold the frozen stages of an encoder, by stage name, and the parts with the stages after them.
ENCODER_PARTS = {"encoder": "tail", "actor_encoder": "actor_tail"}

_RESET = 2  # folded into the key of an update, which is split into 0 and 1


class TrainState(struct.PyTreeNode):
    """Everything that learning changes.

    Attributes:
      params: parameters by part: those of `ENCODER_PARTS`, and the algorithm's heads.
      target_params: the parts that have a target. The freeze removes those of the encoder, since both sides of a
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


class Steps(NamedTuple):
    """When an update became due.

    Attributes:
      before: int32 `[]`, the agent steps at which the update before it became due, or after which learning began.
      now: int32 `[]`, the agent steps at which it became due: the same for several updates of one step.
    """

    before: jax.Array
    now: jax.Array

    def reach_multiple_of(self, period: int) -> jax.Array:
        """Returns whether a multiple of `period` agent steps lies between both, or at `now`."""
        return self.now // period > self.before // period


class Learner(NamedTuple):
    """How an agent learns in one phase.

    Attributes:
      updates: the updates of a cycle, each `(state, batch, steps) -> (state, loss [B], info)`. An algorithm that does
        the same at every update has a cycle of one.
      passes: `() -> passes` of one update through each network, the mean over a cycle.
    """

    updates: tuple[Update, ...]
    passes: Callable[[], tuple[flops.Passes, ...]]


class Agent(NamedTuple):
    """Pure functions of one algorithm.

    Attributes:
      init: `key -> TrainState`.
      view: `obs [B, H, W, C] uint8 -> [B, h, w, C]`, the encoder's input to act on.
      augment: `(key, obs) -> [B, K, h, w, C]`, the encoder's inputs whose latents are stored; None if the latent that
        the agent acts on is also the one stored.
      encode: `(params, views [B, h, w, C]) -> latents [B, N, L]` float32.
      act: `(params, latents [E, N, L], key, step) -> action [E, ...]`, exploring at vector step `step`.
      act_eval: `(params, latents [E, N, L], key) -> action [E, ...]`, for evaluation.
      full: learns from batches of observations, and trains everything.
      frozen: learns from batches of latents; it trains the heads and runs no frozen stage.
      freeze: `TrainState -> TrainState` with the encoder frozen and the targets' encoder tied to it.
      stages: `(params, views) -> outputs [B, ...]` by name of the frozen stages that come before the latents, for
        signals; none unless given.
    """

    init: Callable[[jax.Array], TrainState]
    view: Callable[[jax.Array], jax.Array]
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None
    encode: Callable[[Params, jax.Array], jax.Array]
    act: Callable[[Params, jax.Array, jax.Array, jax.Array], jax.Array]
    act_eval: Callable[[Params, jax.Array, jax.Array], jax.Array]
    full: Learner
    frozen: Learner
    freeze: Callable[[TrainState], TrainState]
    stages: Callable[[Params, jax.Array], dict[str, jax.Array]] = lambda params, views: {}


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """What the rest of the system must know of an algorithm.

    Attributes:
      config_class: class of the section `agent`.
      discrete_actions: whether actions are integers; otherwise they are vectors between -1 and 1.
      make_agent: `(config, action_spec) -> Agent`, for square observations.
      stage_names: `encoder section -> names` of the stages that `seer.freeze_through` may hold; the last is the
        algorithm's own choice.
      latent_shape: `config -> (N, L)` of a stored latent; L is 0 if the image is too small for the encoder.
      updates_per_cycle: `agent section -> number` of updates after which the pattern of updates repeats.
      check: raises ConfigError if values of a configuration do not fit together.
      warnings: returns a line about each choice of a configuration that can run and is probably not meant.
    """

    config_class: type[AgentConfig]
    discrete_actions: bool
    make_agent: Callable[[RunConfig, Any], Agent]
    stage_names: Callable[[EncoderConfig], tuple[str, ...]]
    latent_shape: Callable[[RunConfig], tuple[int, int]]
    updates_per_cycle: Callable[[Any], int] = lambda agent: 1
    check: Callable[[RunConfig], None] = lambda config: None
    warnings: Callable[[RunConfig], Iterable[str]] = lambda config: ()


def all_but_last(outputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the outputs of all stages but the last, which are the latents."""
    return {name: outputs[name] for name in [*outputs][:-1]}


def latents_to_store(agent: Agent, params: Params, obs: jax.Array, key: jax.Array) -> jax.Array:
    """Encodes observations for the ring.

    Args:
      agent: the agent.
      params: its parameters.
      obs: `[B, H, W, C]` uint8.
      key: PRNG key of the augmentation.

    Returns:
      `[B, K, N, L]`.
    """
    views = agent.view(obs)[:, None] if agent.augment is None else agent.augment(key, obs)
    return _encode_views(agent, params, views)


def latents_to_act_and_store(
    agent: Agent, params: Params, obs: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Like `latents_to_store`, with the latents to act on, `[B, N, L]`, leading; all of them in one batch."""
    if agent.augment is None:
        stored = latents_to_store(agent, params, obs, key)
        return stored[:, 0], stored
    latents = _encode_views(agent, params, jnp.concatenate([agent.view(obs)[:, None], agent.augment(key, obs)], axis=1))
    return latents[:, 0], latents[:, 1:]


def _encode_views(agent: Agent, params: Params, views: jax.Array) -> jax.Array:
    """Maps `[B, K, h, w, C]` to `[B, K, N, L]`."""
    latents = agent.encode(params, views.reshape(-1, *views.shape[2:]))
    return latents.reshape(*views.shape[:2], *latents.shape[1:])


def update_keys(state: TrainState) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of the next update: one to sample its batch with, one for the update itself."""
    k_sample, k_update = jax.random.split(jax.random.fold_in(state.key, state.updates))
    return k_sample, k_update


def apply_gradients(
    optimizers: Mapping[str, optax.GradientTransformation], state: TrainState, grads: Any
) -> TrainState:
    """Takes one optimizer step with each part that has a gradient."""
    params, opt_state = dict(state.params), dict(state.opt_state)
    for part, grad in grads.items():
        step, opt_state[part] = optimizers[part].update(grad, opt_state[part], params[part])
        params[part] = optax.apply_updates(params[part], step)
    return state.replace(params=params, opt_state=opt_state)


def freeze_encoder(state: TrainState, *, sync_target_heads: bool, dropped: tuple[str, ...] = ()) -> TrainState:
    """Drops optimizer state and target of the encoder; leaves the heads, their moments and counts alone.

    Args:
      state: of the full phase.
      sync_target_heads: whether the heads' targets are set to the heads, as the official code does.
      dropped: further parts that are no longer trained.
    """
    frozen = {*ENCODER_PARTS, *dropped}
    targets = state.params if sync_target_heads else state.target_params
    return state.replace(
        target_params={
            part: jax.tree.map(jnp.copy, targets[part]) for part in state.target_params if part not in frozen
        },
        opt_state={part: opt_state for part, opt_state in state.opt_state.items() if part not in frozen},
    )


def reset_heads(agent: Agent, state: TrainState, *, keep: float) -> TrainState:
    """Puts the heads, their targets and their optimizer state back to new initial values (Nikishin et al. 2022).

    The heads are the parts that the frozen phase trains, apart from stages of the encoder. With `keep` they are only
    moved towards the new values: shrink and perturb (Ash and Adams 2020, as D'Oro et al. 2023 use it).

    Args:
      agent: the agent.
      state: of either phase. Its updates give the key of the new values, so that each reset has its own.
      keep: share of the old parameters in the new ones; 0 keeps nothing.
    """
    fresh = agent.init(jax.random.fold_in(jax.random.fold_in(state.key, state.updates), _RESET))
    heads = jax.eval_shape(agent.freeze, fresh).opt_state.keys() - {*ENCODER_PARTS, *ENCODER_PARTS.values()}

    def reset(old: Params, new: Params) -> Params:
        parts = {part: new[part] for part in heads & old.keys()}
        if keep:
            parts = jax.tree.map(lambda x, y: keep * x + (1 - keep) * y, {part: old[part] for part in parts}, parts)
        return old | parts

    return state.replace(
        params=reset(state.params, fresh.params),
        target_params=reset(state.target_params, fresh.target_params),
        opt_state=state.opt_state | {part: fresh.opt_state[part] for part in heads},
    )
