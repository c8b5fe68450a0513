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

from seer_jax import flops, replay
from seer_jax.agents import base
from seer_jax.envs.timestep import TimeStep

FULL, FROZEN = "full", "frozen"


@struct.dataclass
class Actor:
    """What acting remembers.

    Attributes:
      stack: `[E, H, W, k * C]` uint8, the newest frames of each environment's episode, newest last.
      key: `[2]` uint32 PRNG key that never changes; step i draws from `fold_in(key, i)`.
      steps: int32 `[]`, vector steps so far.
    """

    stack: jax.Array
    key: jax.Array
    steps: jax.Array


class Programs(NamedTuple):
    """Compiled programs of one phase, and what a call of each costs.

    Attributes:
      interact: `(params, actor, ring, timestep) -> (action [E, ...], actor, ring)`; consumes actor and ring.
      learn: `(state, ring) -> (state, ring, info)`, several updates; consumes both. Info is their mean.
      interact_costs: of `act` and `encode`, of one call.
      learn_costs: of `update`, of all updates of a call.
    """

    interact: jax.stages.Compiled
    learn: jax.stages.Compiled
    interact_costs: dict[str, flops.Cost]
    learn_costs: dict[str, flops.Cost]

    def cost_per_step(self, *, num_envs: int, steps_per_learn: int) -> flops.Cost:
        """Returns the cost of an agent step, once learning has begun.

        Args:
          num_envs: agent steps in a call of `interact`.
          steps_per_learn: agent steps between two calls of `learn`.
        """
        acting = sum(self.interact_costs.values(), flops.Cost())
        learning = sum(self.learn_costs.values(), flops.Cost())
        return acting * (1 / num_envs) + learning * (1 / steps_per_learn)


def init_actor(key: jax.Array, timestep: TimeStep, frame_stack: int) -> Actor:
    """Returns an actor that has seen nothing yet, for environments that send steps like `timestep`."""
    return Actor(stack=empty_stack(timestep, frame_stack), key=key, steps=jnp.zeros((), jnp.int32))


def empty_stack(timestep: TimeStep, frame_stack: int) -> jax.Array:
    """Returns black stacks, `[E, H, W, k * C]`."""
    *shape, channels = timestep.frame.shape
    return jnp.zeros((*shape, frame_stack * channels), jnp.uint8)


def make_observe(agent: base.Agent, phase: str):
    """Returns `(params, stack [E, H, W, k * C], frame, key) -> (latents to act on [E, N, L], what to store)`."""

    def observe(params: base.Params, stack: jax.Array, frame: jax.Array, key: jax.Array):
        if phase == FULL:
            return agent.encode(params, agent.view(stack)), frame
        return base.latents_to_act_and_store(agent, params, stack, key)

    return observe


def make_interact(agent: base.Agent, spec: replay.RingSpec, phase: str):
    """Returns the pure function behind `Programs.interact`."""
    observe = make_observe(agent, phase)

    def interact(params: base.Params, actor: Actor, ring: replay.Ring, timestep: TimeStep):
        stack = replay.push_frame(actor.stack, timestep.frame, timestep.first)
        k_act, k_store = jax.random.split(jax.random.fold_in(actor.key, actor.steps))
        latents, observation = observe(params, stack, timestep.frame, k_store)
        action = agent.act(params, latents, k_act, actor.steps)
        row = replay.Rows(
            observation=observation.astype(ring.rows.observation.dtype),
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
    updates = agent.updates if phase == FULL else agent.latent_updates

    def one(update: base.Update, state: base.TrainState, ring: replay.Ring):
        k_sample, _ = base.update_keys(state)
        beta = importance_exponent(state.updates)
        batch = replay.sample(spec, ring, k_sample, batch_size=batch_size, importance_exponent=beta)
        state, losses, info = update(state, batch)
        if spec.prioritized:
            ring = replay.update_priorities(spec, ring, batch.start, losses)
        return state, ring, info

    def cycle(carry, _):
        state, ring = carry
        infos = []
        for update in updates:
            state, ring, info = one(update, state, ring)
            infos.append(info)
        # Not every update of a cycle has everything to tell. (A set would make programs that differ by process.)
        names = dict.fromkeys(name for info in infos for name in info)
        means = {name: jnp.mean(jnp.stack([info[name] for info in infos if name in info])) for name in names}
        return (state, ring), means

    def learn(state: base.TrainState, ring: replay.Ring):
        cycles = num_updates // len(updates)
        if not unroll:
            (state, ring), infos = jax.lax.scan(cycle, (state, ring), length=cycles)
            return state, ring, jax.tree.map(lambda x: x.mean(axis=0), infos)
        # Written out: a scan of one step is still a loop, whatever its `unroll` says.
        carry, infos = (state, ring), []
        for _ in range(cycles):
            carry, info = cycle(carry, None)
            infos.append(info)
        return *carry, jax.tree.map(lambda *x: jnp.stack(x).mean(), *infos)

    return learn


class Jitted(NamedTuple):
    """Programs of one phase before they are compiled.

    Attributes:
      interact: as in `Programs`.
      learn: as in `Programs`.
      loop_length: turns of the loop that `learn` is, 1 if it is none.
      learn_macs: multiply-accumulates of a call of `learn`, in the paper's convention.
    """

    interact: jax.stages.Wrapped
    learn: jax.stages.Wrapped
    loop_length: int
    learn_macs: float


def jit_programs(
    agent: base.Agent,
    spec: replay.RingSpec,
    phase: str,
    *,
    batch_size: int,
    num_updates: int,
    importance_exponent: optax.Schedule,
    platform: str,
) -> Jitted:
    """Builds both programs of `phase` for a platform.

    Args:
      agent: the algorithm.
      spec: of the phase's ring.
      phase: `full` or `frozen`.
      batch_size: transitions in an update.
      num_updates: updates in one call of `learn`, whole cycles of the agent's.
      importance_exponent: beta of prioritized replay, by update.
      platform: `cpu`, `cuda` or `tpu`.
    """
    # XLA:CPU runs the gradient of a convolution inside a loop 20 times slower than outside of one.
    convolves = agent.has_convolution if phase == FULL else agent.latent_has_convolution
    unroll = convolves and platform == "cpu"
    learn = make_learn(
        agent,
        spec,
        phase,
        batch_size=batch_size,
        num_updates=num_updates,
        importance_exponent=importance_exponent,
        unroll=unroll,
    )
    return Jitted(
        interact=jax.jit(make_interact(agent, spec, phase), donate_argnames=("actor", "ring")),
        learn=jax.jit(learn, donate_argnames=("state", "ring")),
        loop_length=1 if unroll else num_updates // len(agent.updates),
        learn_macs=flops.paper_macs(agent.passes(phase == FROZEN), batch_size) * num_updates,
    )


def compile_programs(
    jitted: Jitted,
    agent: base.Agent,
    phase: str,
    *,
    state: base.TrainState,
    actor: Actor,
    ring: replay.Ring,
    timestep: TimeStep,
) -> Programs:
    """Compiles both programs of `phase` for the default device.

    Args:
      jitted: programs for this platform.
      agent, phase: what they were made of.
      state, actor, ring, timestep: what they will be called with, or the shapes of it.
    """
    interact = jitted.interact.lower(state.params, actor, ring, timestep).compile()
    learn = jitted.learn.lower(state, ring).compile()
    learn_flops = flops.xla_flops(learn) * jitted.loop_length  # XLA counts the body of a loop once
    return Programs(
        interact=interact,
        learn=learn,
        interact_costs=_interact_costs(agent, phase, flops.xla_flops(interact), state.params, actor, timestep),
        learn_costs={"update": flops.Cost(flops=learn_flops, macs=jitted.learn_macs)},
    )


def _interact_costs(
    agent: base.Agent, phase: str, total_flops: float, params: base.Params, actor: Actor, timestep: TimeStep
) -> dict[str, flops.Cost]:
    """Splits the cost of `interact` into encoding and all the rest."""
    observe = make_observe(agent, phase)
    encode = flops.cost_of(observe, params, actor.stack, timestep.frame, actor.key)
    latents, _ = jax.eval_shape(observe, params, actor.stack, timestep.frame, actor.key)
    act = flops.count_macs(agent.act, params, latents, actor.key, actor.steps)
    # XLA merges both and leaves out what acting does not need: alone, encoding may take more than it does here.
    act_flops = flops.cost_of(agent.act, params, latents, actor.key, actor.steps).flops
    encode_flops = max(0.0, total_flops - act_flops)
    return {"encode": flops.Cost(encode_flops, encode.macs), "act": flops.Cost(total_flops - encode_flops, act)}
