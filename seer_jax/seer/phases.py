"""The two phases of a run, `full` and `frozen`, and the two compiled programs of each.

`interact` writes what the environments sent and acts; the environments wait for nothing else. `learn` samples and
updates. Both are compiled once, ahead of the first step of their phase, own the buffers that they return (donation),
and hold no Python state. A phase is a choice between programs, never a branch inside one.

Both are written for one seed. Several seeds do not reach the same agent step at the same time, since the end of an
episode costs a row. Their programs therefore take a flag for each seed, and where it is False they leave all arrays of
that seed as they are.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from seer_jax import flops, platforms, replay
from seer_jax.agents import base
from seer_jax.envs.timestep import TimeStep
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
      learn: `(state, ring) -> (state, ring, info)`, several updates; consumes both. Info is their mean. With several
        seeds a third argument, `[S]` bool, says which seeds learn.
      interact_costs: costs of `act` and `encode`, of one call and one seed.
      learn_costs: cost of `update`, of all updates of a call and one seed.
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
      interact_arguments: shapes of the arguments of `interact`, with their places.
      learn_arguments: shapes of the arguments of `learn`, with their places.
      loop_length: iterations of the loop that `learn` consists of, 1 if it has none.
      learn_macs: multiply-accumulates of a call of `learn`, in the paper's convention.
    """

    interact: jax.stages.Wrapped
    learn: jax.stages.Wrapped
    interact_arguments: tuple[Any, ...]
    learn_arguments: tuple[Any, ...]
    loop_length: int
    learn_macs: float


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
      updates_per_learn: updates in one call of `learn`, whole cycles of the agent's.
      steps_per_learn: agent steps between two calls of `learn`.
      importance_exponent: beta of prioritized replay, by update.
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
    updates_per_learn: int
    steps_per_learn: int
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

    def jit(self, platform: str) -> Jitted:
        """Builds both programs for a platform: `cpu`, `cuda` or `tpu`."""
        unroll = self.learner.has_convolution and platform in platforms.UNROLL_CONVOLUTIONS
        place, lanes = self.placement, functools.partial(self.placement.shapes, lanes=True)
        params, state = (place.shapes(tree, lanes=False) for tree in (self.state.params, self.state))
        actor, ring, timestep = place_actor(self.actor, place.shapes), lanes(self.ring), lanes(self.timestep)
        flag = jax.ShapeDtypeStruct((), jnp.bool)
        flags = (place.shapes(flag, lanes=False),) if place.num_seeds > 1 else ()
        shardings = functools.partial(jax.tree.map, lambda x: x.sharding)
        here, everywhere = place.sharding(lanes=True), place.sharding(lanes=False)
        return Jitted(
            interact=jax.jit(
                place.map_seeds(make_interact(self)),
                donate_argnums=(1, 2),
                out_shardings=(here, shardings(actor), here),
            ),
            learn=jax.jit(
                place.map_seeds(make_learn(self, unroll=unroll)),
                donate_argnums=(0, 1),
                out_shardings=(everywhere, here, everywhere),
            ),
            interact_arguments=(params, actor, ring, timestep, *flags),
            learn_arguments=(state, ring, *flags),
            loop_length=1 if unroll else self.updates_per_learn // len(self.learner.updates),
            learn_macs=flops.paper_macs(self.learner.passes(), self.batch_size) * self.updates_per_learn,
        )

    def compile(self) -> Programs:
        """Compiles both programs for the default device, or for the devices of the mesh."""
        jitted, place = self.jit(jax.default_backend()), self.placement
        with place.context():
            interact = jitted.interact.lower(*jitted.interact_arguments).compile()
            learn = jitted.learn.lower(*jitted.learn_arguments).compile()
        if place.num_seeds > 1:  # a seed costs what it costs alone: the flags of several are not its work
            alone = dataclasses.replace(self, placement=place.of_one_seed).compile()
            return alone._replace(interact=interact, learn=learn)
        # XLA counts the work of one device, and the body of a loop once.
        learn_flops = flops.xla_flops(learn) * jitted.loop_length * place.num_shards
        interact_costs = self._interact_costs(flops.xla_flops(interact) * place.num_shards)
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


def make_learn(phase: Phase, *, unroll: bool) -> Callable[..., tuple[base.TrainState, replay.Ring, base.Info]]:
    """Returns the pure function behind `Programs.learn`, of one seed; its flag may be left out.

    Args:
      phase: the phase.
      unroll: write the cycles of updates out instead of looping over them.
    """
    spec, updates = phase.ring_spec, phase.learner.updates

    def one(
        update: base.Update, state: base.TrainState, ring: replay.Ring, learns: jax.Array | None
    ) -> tuple[Carry, base.Info]:
        k_sample, _ = base.update_keys(state)
        beta: Any = phase.importance_exponent(state.updates)
        batch = replay.sample(spec, ring, k_sample, batch_size=phase.batch_size, importance_exponent=beta)
        new, losses, info = update(state, batch)
        if spec.prioritized:
            # A loss that is not a number leaves its priority as it is.
            losses = losses if learns is None else jnp.where(learns, losses, jnp.nan)
            ring = replay.update_priorities(spec, ring, batch.start, losses)
        return (_where(learns, new, state), ring), info

    def cycle(carry: Carry, learns: jax.Array | None) -> tuple[Carry, base.Info]:
        infos = []
        for update in updates:
            carry, info = one(update, *carry, learns)
            infos.append(info)
        # Updates of a cycle may report different metrics. (A set would make programs that differ by process.)
        names = dict.fromkeys(name for info in infos for name in info)
        means = {name: jnp.mean(jnp.stack([info[name] for info in infos if name in info])) for name in names}
        return carry, means

    def learn(
        state: base.TrainState, ring: replay.Ring, learns: jax.Array | None = None
    ) -> tuple[base.TrainState, replay.Ring, base.Info]:
        cycles = phase.updates_per_learn // len(updates)
        if not unroll:
            (state, ring), infos = jax.lax.scan(lambda carry, _: cycle(carry, learns), (state, ring), length=cycles)
            return state, ring, jax.tree.map(lambda x: x.mean(axis=0), infos)
        # Written out: a scan of one step is still a loop, whatever its `unroll` says.
        infos = []
        for _ in range(cycles):
            (state, ring), info = cycle((state, ring), learns)
            infos.append(info)
        return state, ring, jax.tree.map(lambda *x: jnp.stack(x).mean(), *infos)

    return learn


def _where(flag: jax.Array | None, new: Any, old: Any) -> Any:
    """Returns the new arrays where the flag is True or there is none."""
    return new if flag is None else jax.tree.map(functools.partial(jnp.where, flag), new, old)
