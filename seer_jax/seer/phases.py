"""The two phases of a run, `full` and `frozen`, and the compiled programs of each.

`interact` writes what the environments sent and acts; the environments wait for nothing else. `learn` samples and
updates, and `reset` resets heads in a run with resets. They are compiled once, ahead of the first step of their phase,
own the buffers that they return (donation), and hold no Python state. A phase is a choice between programs, never a
branch inside one.

They are written for one seed. Several seeds do not reach the same agent step at the same time, since the end of an
episode costs a row. Their programs therefore take a flag for each seed, and where it is False they leave all arrays of
that seed as they are.
"""

import dataclasses
import fractions
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from seer_jax import flops, platforms, replay
from seer_jax.agents import base
from seer_jax.envs.timestep import TimeStep
from seer_jax.seer import pace
from seer_jax.seer.placement import Placement

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


def place_actor(actor: Actor, place: Callable[..., Any]) -> Actor:
    """Returns an actor whose leaves `place`, a method of `Placement`, has placed."""
    key, steps = (place(leaf, lanes=False) for leaf in (actor.key, actor.steps))
    return Actor(stack=place(actor.stack, lanes=True), key=key, steps=steps)


class Programs(NamedTuple):
    """Compiled programs of one phase, and their costs.

    Attributes:
      interact: `(params, actor, ring, timestep) -> (action [E, ...], actor, ring)`; consumes actor and ring. With
        several seeds all have the axis of seeds, and a fifth argument, `[S]` bool, says which seeds step.
      learn: `(state, ring, due) -> (state, ring, info)`, up to `Phase.updates_per_learn` updates; consumes state and
        ring. Info is their mean. With several seeds all have the axis of seeds.
      reset: `state -> state` with the heads reset; consumes it. With several seeds a second argument, `[S]` bool, says
        of which seeds. None if there are no resets.
      interact_costs: costs of `act` and `encode`, of one call and one seed.
      update_costs: cost of `update`, of one update of one seed, the mean over a cycle.
      cost_per_step: cost of an agent step, once learning has begun.
    """

    interact: jax.stages.Compiled
    learn: jax.stages.Compiled
    reset: jax.stages.Compiled | None
    interact_costs: dict[str, flops.Cost]
    update_costs: dict[str, flops.Cost]
    cost_per_step: flops.Cost


class Jitted(NamedTuple):
    """Programs of one phase before they are compiled.

    Attributes:
      interact: as in `Programs`.
      learn: as in `Programs`.
      reset: as in `Programs`.
      interact_arguments: shapes of the arguments of `interact`, with their places.
      learn_arguments: shapes of the arguments of `learn`, with their places.
      reset_arguments: shapes of the arguments of `reset`, with their places.
      update_macs: multiply-accumulates of an update, in the paper's convention.
    """

    interact: jax.stages.Wrapped
    learn: jax.stages.Wrapped
    reset: jax.stages.Wrapped
    interact_arguments: tuple[Any, ...]
    learn_arguments: tuple[Any, ...]
    reset_arguments: tuple[Any, ...]
    update_macs: float


@dataclasses.dataclass(frozen=True, eq=False)
class Phase:
    """One phase of a run, as shapes of one seed: nothing is allocated.

    Attributes:
      name: `full` or `frozen`.
      agent: the algorithm.
      ring_spec: static part of the ring.
      row: shapes of the rows of one time.
      state: shapes of the training state.
      actor: shapes of what acting remembers.
      timestep: shapes of what the environments send.
      batch_size: transitions of an update.
      replay_ratio: updates per agent step.
      reset_heads_every: updates between two resets of the heads; 0 resets none.
      reset_keep: see `base.reset_heads`.
      importance_exponent: beta of prioritized replay, by agent steps.
      placement: the seeds, and the places of their arrays.
    """

    name: str
    agent: base.Agent
    ring_spec: replay.RingSpec
    row: replay.Rows
    state: base.TrainState
    actor: Actor
    timestep: TimeStep
    batch_size: int
    replay_ratio: fractions.Fraction
    reset_heads_every: int
    reset_keep: float
    importance_exponent: optax.Schedule
    placement: Placement

    @property
    def learner(self) -> base.Learner:
        """How the agent learns in this phase."""
        return self.agent.full if self.name == FULL else self.agent.frozen

    @property
    def ring(self) -> replay.Ring:
        """Shapes of the ring of one seed."""
        return jax.eval_shape(lambda: replay.init(self.ring_spec, self.row))

    def init_ring(self) -> replay.Ring:
        """Returns an empty ring for all seeds, each part of it made on its device."""
        init = functools.partial(replay.init, self.ring_spec, self.row)
        place = self.placement
        if place.num_seeds == 1 and place.mesh is None:
            return init()
        seeds = (place.num_seeds,) if place.num_seeds > 1 else ()

        def of_all_seeds() -> replay.Ring:
            return jax.tree.map(lambda x: jnp.broadcast_to(x, (*seeds, *x.shape)), init())

        return jax.jit(of_all_seeds, out_shardings=place.sharding(lanes=True))()

    def init_state(self, key: jax.Array) -> base.TrainState:
        """Returns a new training state of this phase."""
        state = jax.jit(self.agent.init)(key)
        return state if self.name == FULL else self.agent.freeze(state)

    def cycles_per_learn(self, platform: str | None = None) -> int:
        """Returns the most cycles of updates of a call of `learn`: the iterations of its loop, if they are several.

        They are as many as are due after a step of all environments, or one on a platform without loops of updates.

        Args:
          platform: as in `jit`; None stands for that of this machine.
        """
        if (platform or jax.default_backend()) in platforms.NO_LOOPS_OF_UPDATES:
            return 1
        return max(1, math.floor(self.ring_spec.num_envs * self.replay_ratio / len(self.learner.updates)))

    def updates_per_learn(self, platform: str | None = None) -> int:
        """Returns the most updates of a call of `learn`; `platform` as in `cycles_per_learn`."""
        return self.cycles_per_learn(platform) * len(self.learner.updates)

    def _counts_cycles(self, platform: str | None = None) -> bool:
        """Whether `learn` takes the number of cycles to make, since calls may differ in it."""
        return self.placement.num_seeds > 1 or self.cycles_per_learn(platform) > 1

    def put_cycles(self, cycles: np.ndarray) -> jax.Array | None:
        """Returns numbers of cycles of all seeds, `[S]` int32, as `learn` takes them on this machine."""
        return self.placement.put_of_seeds(cycles) if self._counts_cycles() else None

    def whole_call(self) -> pace.Due:
        """Returns what is due in a call of `learn` on this machine that makes as many updates as it can."""
        seeds = self.placement.num_seeds
        cycles = np.full(seeds, self.cycles_per_learn(), np.int32)
        return pace.Due(self.placement.put_of_seeds(np.zeros((seeds, 3), np.int32)), self.put_cycles(cycles))

    def jit(self, platform: str) -> Jitted:
        """Builds the programs for a platform: `cpu`, `cuda` or `tpu`."""
        place, lanes = self.placement, functools.partial(self.placement.shapes, lanes=True)
        params, state = (place.shapes(tree, lanes=False) for tree in (self.state.params, self.state))
        actor, ring, timestep = place_actor(self.actor, place.shapes), lanes(self.ring), lanes(self.timestep)
        flag = jax.ShapeDtypeStruct((), jnp.bool)
        flags = (place.shapes(flag, lanes=False),) if place.num_seeds > 1 else ()
        counts = self._counts_cycles(platform)
        due = jax.eval_shape(lambda: pace.Due(jnp.zeros(3, jnp.int32), jnp.int32(0) if counts else None))
        shardings = functools.partial(jax.tree.map, lambda x: x.sharding)
        here, everywhere = place.sharding(lanes=True), place.sharding(lanes=False)
        return Jitted(
            interact=jax.jit(
                place.map_seeds(make_interact(self)),
                donate_argnums=(1, 2),
                out_shardings=(here, shardings(actor), here),
            ),
            learn=jax.jit(
                place.map_seeds(make_learn(self, self.cycles_per_learn(platform))),
                donate_argnums=(0, 1),
                out_shardings=(everywhere, here, everywhere),
            ),
            reset=jax.jit(place.map_seeds(make_reset(self)), donate_argnums=0, out_shardings=everywhere),
            interact_arguments=(params, actor, ring, timestep, *flags),
            learn_arguments=(state, ring, place.shapes(due, lanes=False)),
            reset_arguments=(state, *flags),
            update_macs=flops.paper_macs(self.learner.passes(), self.batch_size),
        )

    def compile(self) -> Programs:
        """Compiles the programs for the default device, or for the devices of the mesh."""
        jitted, place = self.jit(jax.default_backend()), self.placement
        with place.context():
            interact = jitted.interact.lower(*jitted.interact_arguments).compile()
            learn = jitted.learn.lower(*jitted.learn_arguments).compile()
            reset = jitted.reset.lower(*jitted.reset_arguments).compile() if self.reset_heads_every else None
        if place.num_seeds > 1:  # a seed costs what it costs alone: the flags of several are not its work
            alone = dataclasses.replace(self, placement=place.of_one_seed, reset_heads_every=0).compile()
            return alone._replace(interact=interact, learn=learn, reset=reset)
        # XLA counts the work of one device, and the body of a loop once: a cycle of updates.
        update_flops = flops.xla_flops(learn) * place.num_shards / len(self.learner.updates)
        interact_costs = self._interact_costs(flops.xla_flops(interact) * place.num_shards)
        update_costs = {"update": flops.Cost(flops=update_flops, macs=jitted.update_macs)}
        acting, learning = (sum(costs.values(), flops.Cost()) for costs in (interact_costs, update_costs))
        cost_per_step = acting * (1 / self.ring_spec.num_envs) + learning * float(self.replay_ratio)
        return Programs(interact, learn, reset, interact_costs, update_costs, cost_per_step)

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
    """Returns the pure function behind `Programs.interact`, of one seed; its flag may be left out."""
    agent, spec, observe = phase.agent, phase.ring_spec, make_observe(phase)
    stored_dtype = phase.row.observation.dtype

    def interact(
        params: base.Params,
        actor: Actor,
        ring: replay.Ring,
        timestep: TimeStep[jax.Array],
        steps: jax.Array | None = None,
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
        acted = actor.replace(stack=stack, steps=actor.steps + 1)
        return action, _where(steps, acted, actor), replay.add(spec, ring, row, steps)

    return interact


def make_learn(phase: Phase, cycles: int) -> Callable[..., tuple[base.TrainState, replay.Ring, base.Info]]:
    """Returns the pure function behind `Programs.learn`, of one seed.

    Args:
      phase: the phase.
      cycles: the most cycles of updates of a call; more than one form a loop.
    """
    spec, updates = phase.ring_spec, phase.learner.updates

    def one(
        update: base.Update, state: base.TrainState, ring: replay.Ring, since: jax.Array, learns: jax.Array | None
    ) -> tuple[Carry, base.Info]:
        k_sample, _ = base.update_keys(state)
        steps = pace.steps_of(phase.replay_ratio, since, state.updates)
        beta: Any = phase.importance_exponent(steps.before)
        batch = replay.sample(spec, ring, k_sample, batch_size=phase.batch_size, importance_exponent=beta)
        new, losses, info = update(state, batch, steps)
        if spec.prioritized:
            # A loss that is not a number leaves its priority as it is.
            losses = losses if learns is None else jnp.where(learns, losses, jnp.nan)
            ring = replay.update_priorities(spec, ring, batch.start, losses)
        return (_where(learns, new, state), ring), info

    def cycle(carry: Carry, since: jax.Array, learns: jax.Array | None) -> tuple[Carry, base.Info]:
        infos = []
        for update in updates:
            carry, info = one(update, *carry, since, learns)
            infos.append(info)
        # Updates of a cycle may report different metrics. (A set would make programs that differ by process.)
        names = dict.fromkeys(name for info in infos for name in info)
        means = {name: jnp.mean(jnp.stack([info[name] for info in infos if name in info])) for name in names}
        return carry, means

    def learn(
        state: base.TrainState, ring: replay.Ring, due: pace.Due
    ) -> tuple[base.TrainState, replay.Ring, base.Info]:
        if cycles == 1:
            learns = None if due.cycles is None else due.cycles > 0
            (state, ring), info = cycle((state, ring), due.since, learns)
            return state, ring, info
        count = cycles if due.cycles is None else due.cycles

        def turn(carry: Carry, i: jax.Array) -> tuple[Carry, base.Info]:
            carry, info = cycle(carry, due.since, None if due.cycles is None else i < count)
            return carry, jax.tree.map(lambda x: jnp.where(i < count, x, 0), info)

        (state, ring), infos = jax.lax.scan(turn, (state, ring), jnp.arange(cycles))
        return state, ring, jax.tree.map(lambda x: x.sum() / jnp.maximum(count, 1), infos)

    return learn


def make_reset(phase: Phase) -> Callable[..., base.TrainState]:
    """Returns the pure function behind `Programs.reset`, of one seed; its flag may be left out."""

    def reset(state: base.TrainState, resets: jax.Array | None = None) -> base.TrainState:
        return _where(resets, base.reset_heads(phase.agent, state, keep=phase.reset_keep), state)

    return reset


def _where(flag: jax.Array | None, new: Any, old: Any) -> Any:
    """Returns the new arrays where the flag is True or there is none."""
    return new if flag is None else jax.tree.map(functools.partial(jnp.where, flag), new, old)
