"""The two phases of a run, `full` and `frozen`, and the two compiled programs of each.

`interact` writes what the environments sent, acts, and is all that the environments wait for. `learn`
samples and updates. Both are compiled once, ahead of the first step of their phase, own the buffers
that they return (donation), and hold no Python state: the phase is a choice between programs, never
a branch inside one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from seer_jax import replay
from seer_jax.agents import base
from seer_jax.envs.timestep import TimeStep

FULL, FROZEN = "full", "frozen"


@struct.dataclass
class Actor:
    """What acting remembers.

    Attributes:
      stack: `[E, H, W, k]` uint8, the newest frames of each environment's episode, newest last.
      key: `[2]` uint32 PRNG key that never changes; step i draws from `fold_in(key, i)`.
      steps: int32 `[]`, vector steps so far.
    """

    stack: jax.Array
    key: jax.Array
    steps: jax.Array


class Programs(NamedTuple):
    """Compiled programs of one phase, and what a call of each costs.

    Attributes:
      interact: `(params, actor, ring, timestep) -> (action [E], actor, ring)`; consumes actor and ring.
      learn: `(state, ring) -> (state, ring, info)`, several updates; consumes both. Info is their mean.
      interact_flops: XLA's count, a multiply-add being two.
      learn_flops: the same for all updates of a call.
    """

    interact: jax.stages.Compiled
    learn: jax.stages.Compiled
    interact_flops: float
    learn_flops: float


def init_actor(key: jax.Array, timestep: TimeStep, frame_stack: int) -> Actor:
    """Returns an actor that has seen nothing yet, for environments that send steps like `timestep`."""
    stack = jnp.zeros((*timestep.frame.shape, frame_stack), jnp.uint8)
    return Actor(stack=stack, key=key, steps=jnp.zeros((), jnp.int32))


def frame_row(timestep: TimeStep) -> replay.Rows:
    """Shapes of one time's rows before the freeze."""
    return _row_shapes(jax.ShapeDtypeStruct(timestep.frame.shape, jnp.uint8))


def latent_row(num_envs: int, latent_shape: tuple[int, ...], dtype: str) -> replay.Rows:
    """Shapes of one time's rows after the freeze; `latent_shape` is `[K, N, L]`."""
    return _row_shapes(jax.ShapeDtypeStruct((num_envs, *latent_shape), jnp.dtype(dtype)))


def _row_shapes(observation: jax.ShapeDtypeStruct) -> replay.Rows:
    def per_env(dtype):
        return jax.ShapeDtypeStruct(observation.shape[:1], dtype)

    return replay.Rows(
        observation=observation,
        action=per_env(jnp.int32),
        reward=per_env(jnp.float32),
        terminated=per_env(bool),
        last=per_env(bool),
        first=per_env(bool),
    )


def make_interact(agent: base.Agent, spec: replay.RingSpec, phase: str):
    """Returns the pure function behind `Programs.interact`."""

    def interact(params: base.Params, actor: Actor, ring: replay.Ring, timestep: TimeStep):
        stack = replay.push_frame(actor.stack, timestep.frame, timestep.first)
        latents = agent.encode(params["encoder"], stack)  # [E, N, L]
        action = agent.act(params, latents, jax.random.fold_in(actor.key, actor.steps))
        # After the freeze one encoding serves both acting and storage; a latent row has a copy axis.
        observation = timestep.frame if phase == FULL else latents[:, None].astype(ring.rows.observation.dtype)
        row = replay.Rows(
            observation=observation,
            action=action,
            reward=timestep.reward,
            terminated=timestep.terminated,
            last=timestep.last,
            first=timestep.first,
        )
        return action, actor.replace(stack=stack, steps=actor.steps + 1), replay.add(spec, ring, row)

    return interact


def make_learn(
    agent: base.Agent,
    spec: replay.RingSpec,
    phase: str,
    *,
    batch_size: int,
    num_updates: int,
    importance_exponent: optax.Schedule,
    unroll: bool,
):
    """Returns the pure function behind `Programs.learn`."""
    update = agent.update if phase == FULL else agent.update_latent

    def one(carry, _):
        state, ring = carry
        k_sample, _ = base.update_keys(state)
        beta = importance_exponent(state.updates)
        batch = replay.sample(spec, ring, k_sample, batch_size=batch_size, importance_exponent=beta)
        state, losses, info = update(state, batch)
        if spec.prioritized:
            ring = replay.update_priorities(spec, ring, batch.start, losses)
        return (state, ring), info

    def learn(state: base.TrainState, ring: replay.Ring):
        (state, ring), infos = jax.lax.scan(one, (state, ring), length=num_updates, unroll=unroll)
        return state, ring, jax.tree.map(lambda x: x.mean(axis=0), infos)

    return learn


def compile_programs(
    agent: base.Agent,
    spec: replay.RingSpec,
    phase: str,
    *,
    state: base.TrainState,
    actor: Actor,
    ring: replay.Ring,
    timestep: TimeStep,
    batch_size: int,
    num_updates: int,
    importance_exponent: optax.Schedule,
) -> Programs:
    """Compiles both programs of `phase` for arguments like those given; none of them is consumed.

    Args:
      agent: the algorithm.
      spec: of the phase's ring.
      phase: `full` or `frozen`.
      state, actor, ring, timestep: what the programs will be called with, or the like.
      batch_size: transitions in an update.
      num_updates: updates in one call of `learn`.
      importance_exponent: beta of prioritized replay, by update.
    """
    # XLA:CPU runs the gradient of a convolution inside a loop 20 times slower than outside of one.
    unroll = agent.has_convolution and phase == FULL and jax.default_backend() == "cpu"
    learn = make_learn(
        agent,
        spec,
        phase,
        batch_size=batch_size,
        num_updates=num_updates,
        importance_exponent=importance_exponent,
        unroll=unroll,
    )
    interact = make_interact(agent, spec, phase)
    interact = jax.jit(interact, donate_argnames=("actor", "ring")).lower(state.params, actor, ring, timestep).compile()
    learn = jax.jit(learn, donate_argnames=("state", "ring")).lower(state, ring).compile()
    return Programs(
        interact=interact,
        learn=learn,
        interact_flops=interact.cost_analysis()["flops"],
        # XLA counts the body of a loop once.
        learn_flops=learn.cost_analysis()["flops"] * (1 if unroll else num_updates),
    )
