"""The two phases of a run, `full` and `frozen`, and the two compiled programs of each.

`interact` writes what the environments sent and acts; the environments wait for nothing else. `learn` samples and
updates. Both are compiled once, ahead of the first step of their phase, own the buffers that they return (donation),
and hold no Python state. A phase is a choice between programs, never a branch inside one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from seer_jax import flops, platforms, replay
from seer_jax.agents import base
from seer_jax.envs.timestep import TimeStep

Carry = tuple[base.TrainState, replay.Ring]

FULL, FROZEN = "full", "frozen"


class Actor(struct.PyTreeNode):
    """What acting remembers.

    Attributes:
      stack: `[E, H, W, k * C]` uint8, the newest frames of each environment's episode, newest last.
      key: `[2]` uint32 PRNG key that never changes; step i draws from `fold_in(key, i)`.
      steps: int32 `[]`, vector steps so far.
    """

    stack: jax.Array
    key: jax.Array
    steps: jax.Array


def init_actor(key: jax.Array, timestep: TimeStep, frame_stack: int) -> Actor:
    """Returns an actor without frames, for environments that send steps like `timestep`."""
    stack = replay.empty_stack(timestep.frame.shape, frame_stack)
    return Actor(stack=stack, key=key, steps=jnp.zeros((), jnp.int32))


class Programs(NamedTuple):
    """Compiled programs of one phase, and their costs.

    Attributes:
      interact: `(params, actor, ring, timestep) -> (action [E, ...], actor, ring)`; consumes actor and ring.
      learn: `(state, ring) -> (state, ring, info)`, several updates; consumes both. Info is their mean.
      interact_costs: costs of `act` and `encode`, of one call.
      learn_costs: cost of `update`, of all updates of a call.
      cost_per_step: cost of an agent step, once learning has begun.
    """

    interact: jax.stages.Compiled
    learn: jax.stages.Compiled
    interact_costs: dict[str, flops.Cost]
    learn_costs: dict[str, flops.Cost]
    cost_per_step: flops.Cost


class Jitted(NamedTuple):
    """Programs of one phase before they are compiled.

    Attributes:
      interact: as in `Programs`.
      learn: as in `Programs`.
      loop_length: iterations of the loop that `learn` consists of, 1 if it has none.
      learn_macs: multiply-accumulates of a call of `learn`, in the paper's convention.
    """

    interact: jax.stages.Wrapped
    learn: jax.stages.Wrapped
    loop_length: int
    learn_macs: float


@dataclasses.dataclass(frozen=True, eq=False)
class Phase:
    """One phase of a run, as shapes: nothing is allocated.

    Attributes:
      name: `full` or `frozen`.
      agent: the algorithm.
      ring_spec: static part of the ring.
      row: shapes of the rows of one time.
      state: shapes of the training state.
      actor: shapes of what acting remembers.
      timestep: shapes of what the environments send.
      batch_size: transitions of an update.
      updates_per_learn: updates in one call of `learn`, whole cycles of the agent's.
      steps_per_learn: agent steps between two calls of `learn`.
      importance_exponent: beta of prioritized replay, by update.
    """

    name: str
    agent: base.Agent
    ring_spec: replay.RingSpec
    row: replay.Rows
    state: base.TrainState
    actor: Actor
    timestep: TimeStep
    batch_size: int
    updates_per_learn: int
    steps_per_learn: int
    importance_exponent: optax.Schedule

    @property
    def learner(self) -> base.Learner:
        """How the agent learns in this phase."""
        return self.agent.full if self.name == FULL else self.agent.frozen

    @property
    def ring(self) -> replay.Ring:
        """Shapes of the ring."""
        return jax.eval_shape(self.init_ring)

    def init_ring(self) -> replay.Ring:
        """Returns an empty ring."""
        return replay.init(self.ring_spec, self.row)

    def init_state(self, key: jax.Array) -> base.TrainState:
        """Returns a new training state of this phase."""
        state = jax.jit(self.agent.init)(key)
        return state if self.name == FULL else self.agent.freeze(state)

    def jit(self, platform: str) -> Jitted:
        """Builds both programs for a platform: `cpu`, `cuda` or `tpu`."""
        unroll = self.learner.has_convolution and platform in platforms.UNROLL_CONVOLUTIONS
        return Jitted(
            interact=jax.jit(make_interact(self), donate_argnames=("actor", "ring")),
            learn=jax.jit(make_learn(self, unroll=unroll), donate_argnames=("state", "ring")),
            loop_length=1 if unroll else self.updates_per_learn // len(self.learner.updates),
            learn_macs=flops.paper_macs(self.learner.passes(), self.batch_size) * self.updates_per_learn,
        )

    def compile(self) -> Programs:
        """Compiles both programs for the default device."""
        jitted = self.jit(jax.default_backend())
        interact = jitted.interact.lower(self.state.params, self.actor, self.ring, self.timestep).compile()
        learn = jitted.learn.lower(self.state, self.ring).compile()
        learn_flops = flops.xla_flops(learn) * jitted.loop_length  # XLA counts the body of a loop once
        interact_costs = self._interact_costs(flops.xla_flops(interact))
        learn_costs = {"update": flops.Cost(flops=learn_flops, macs=jitted.learn_macs)}
        acting, learning = (sum(costs.values(), flops.Cost()) for costs in (interact_costs, learn_costs))
        cost_per_step = acting * (1 / self.ring_spec.num_envs) + learning * (1 / self.steps_per_learn)
        return Programs(interact, learn, interact_costs, learn_costs, cost_per_step)

    def _interact_costs(self, total_flops: float) -> dict[str, flops.Cost]:
        """Splits the cost of `interact` into encoding and all the rest."""
        agent, params, actor = self.agent, self.state.params, self.actor
        observe, inputs = make_observe(self), (params, actor.stack, self.timestep.frame, actor.key)
        encode = flops.cost_of(observe, *inputs)
        latents, _ = jax.eval_shape(observe, *inputs)
        act = flops.count_macs(agent.act, params, latents, actor.key, actor.steps)
        # XLA merges both and removes what acting does not need: alone, encoding may take more than it does here.
        act_flops = flops.cost_of(agent.act, params, latents, actor.key, actor.steps).flops
        encode_flops = max(0.0, total_flops - act_flops)
        return {"encode": flops.Cost(encode_flops, encode.macs), "act": flops.Cost(total_flops - encode_flops, act)}


def make_observe(phase: Phase) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns `(params, stack [E, H, W, k * C], frame, key) -> (latents to act on [E, N, L], observation to store)`."""
    agent = phase.agent

    def observe(params: base.Params, stack: jax.Array, frame: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        if phase.name == FULL:
            return agent.encode(params, agent.view(stack)), frame
        return base.latents_to_act_and_store(agent, params, stack, key)

    return observe


def make_interact(phase: Phase) -> Callable[..., tuple[jax.Array, Actor, replay.Ring]]:
    """Returns the pure function behind `Programs.interact`."""
    agent, spec, observe = phase.agent, phase.ring_spec, make_observe(phase)
    stored_dtype = phase.row.observation.dtype

    def interact(
        params: base.Params, actor: Actor, ring: replay.Ring, timestep: TimeStep[jax.Array]
    ) -> tuple[jax.Array, Actor, replay.Ring]:
        stack = replay.push_frame(actor.stack, timestep.frame, timestep.first, first_stack=spec.first_stack)
        k_act, k_store = jax.random.split(jax.random.fold_in(actor.key, actor.steps))
        latents, observation = observe(params, stack, timestep.frame, k_store)
        action = agent.act(params, latents, k_act, actor.steps)
        row = replay.Rows(
            observation=observation.astype(stored_dtype),
            action=action,
            reward=timestep.reward,
            terminated=timestep.terminated,
            last=timestep.last,
            first=timestep.first,
        )
        return action, actor.replace(stack=stack, steps=actor.steps + 1), replay.add(spec, ring, row)

    return interact


def make_learn(phase: Phase, *, unroll: bool) -> Callable[..., tuple[base.TrainState, replay.Ring, base.Info]]:
    """Returns the pure function behind `Programs.learn`.

    Args:
      phase: the phase.
      unroll: write the cycles of updates out instead of looping over them.
    """
    spec, updates = phase.ring_spec, phase.learner.updates

    def one(update: base.Update, state: base.TrainState, ring: replay.Ring) -> tuple[Carry, base.Info]:
        k_sample, _ = base.update_keys(state)
        beta: Any = phase.importance_exponent(state.updates)
        batch = replay.sample(spec, ring, k_sample, batch_size=phase.batch_size, importance_exponent=beta)
        state, losses, info = update(state, batch)
        if spec.prioritized:
            ring = replay.update_priorities(spec, ring, batch.start, losses)
        return (state, ring), info

    def cycle(carry: Carry, _: Any) -> tuple[Carry, base.Info]:
        infos = []
        for update in updates:
            carry, info = one(update, *carry)
            infos.append(info)
        # Updates of a cycle may report different metrics. (A set would make programs that differ by process.)
        names = dict.fromkeys(name for info in infos for name in info)
        means = {name: jnp.mean(jnp.stack([info[name] for info in infos if name in info])) for name in names}
        return carry, means

    def learn(state: base.TrainState, ring: replay.Ring) -> tuple[base.TrainState, replay.Ring, base.Info]:
        cycles = phase.updates_per_learn // len(updates)
        if not unroll:
            (state, ring), infos = jax.lax.scan(cycle, (state, ring), length=cycles)
            return state, ring, jax.tree.map(lambda x: x.mean(axis=0), infos)
        # Written out: a scan of one step is still a loop, whatever its `unroll` says.
        infos = []
        for _ in range(cycles):
            (state, ring), info = cycle((state, ring), None)
            infos.append(info)
        return state, ring, jax.tree.map(lambda *x: jnp.stack(x).mean(), *infos)

    return learn
