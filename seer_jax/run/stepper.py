"""The programs of a run and the environments of all its seeds: how they step, freeze and start anew.

When they do is decided by `seer_jax.run.loop`.
"""

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax import flops, replay, status
from seer_jax.agents import base
from seer_jax.run import checkpoint, needs
from seer_jax.run.assembly import Assembly
from seer_jax.run.measuring import Measuring
from seer_jax.run.seed import OfSeed, Seed
from seer_jax.run.state import RunState
from seer_jax.run.training_envs import TrainingEnvs
from seer_jax.seer import handover, pace, signals
from seer_jax.seer.hosts import Hosts
from seer_jax.seer.phases import FROZEN, Phase, Programs

_SNAPSHOT_DIRECTORY = "freeze"  # among the checkpoints


class Stepper:
    """The arrays of a run, the programs of its phase and its environments.

    All hosts make the same calls.

    Args:
      parts: the assembly of the run.
      state: its arrays.
      envs: its training environments.
      seeds: the seeds that train, by number from 0 on. The caller removes those that stop.
      hosts: the hosts of the run.

    Attributes:
      envs: as given.
      phase: the current phase.
      state: the arrays after the last call.
    """

    envs: TrainingEnvs
    phase: Phase
    state: RunState
    _programs: Programs
    _since: jax.Array  # `[S, 3]`, or `[3]` of one seed; see `pace.Due`

    def __init__(
        self, parts: Assembly, state: RunState, envs: TrainingEnvs, seeds: Mapping[int, Seed], hosts: Hosts
    ) -> None:
        self._parts, self._config, self._seeds, self._hosts = parts, parts.config, seeds, hosts
        self.state, self.envs, self.phase = state, envs, parts.phase(state.phase)
        self._info: Mapping[str, Any] = {}
        self._measuring: Measuring | None = None

    def flags(self, seeds: Iterable[int]) -> np.ndarray:
        """Returns `[S]` bool, True for these seeds."""
        flags = np.zeros(self._config.num_seeds, bool)
        flags[[*seeds]] = True
        return flags

    def _put_flags(self, flags: np.ndarray) -> tuple[jax.Array, ...]:
        """Returns the last arguments of a program: flags of several seeds, none for one."""
        return (self._parts.placement.put(flags, lanes=False),) if self._config.num_seeds > 1 else ()

    def compile(self) -> None:
        """Compiles the programs of the phase."""
        with status.activity(f"compiling the programs of the {self.phase.name} phase"):
            self._programs = self.phase.compile()
        since = [self._seeds[i].since if i in self._seeds else (0, 0, 0) for i in range(self._config.num_seeds)]
        self._since = self._parts.placement.put_of_seeds(np.array(since, np.int32))
        per_step = self._programs.cost_per_step
        for each in self._seeds.values():
            each.progress.costs[self.phase.name] = {
                "flops_per_step": per_step.flops,
                "macs_per_step": per_step.macs,
                "replay_bytes": self.phase.ring.num_bytes,
                "replay_capacity": self.phase.ring_spec.capacity,
            }

    def vector_step(self, steps: np.ndarray, *, renew_envs: bool = False) -> None:
        """Steps all environments of some seeds once; `learn` runs on the device while they step on the host.

        Args:
          steps: `[S]` bool, the seeds.
          renew_envs: end all episodes here and make new environments, whose state cannot be saved. What comes after a
            checkpoint is then the same for a run that goes on and for one that resumes.
        """
        run, phase, programs, place = self.state, self.phase, self._programs, self._parts.placement
        # One transfer to the device and one back, and flags or numbers where programs take them. All are explicit: a
        # transfer guard shows that there are no others.
        timestep = place.put(self.envs.take(steps, cut=steps & renew_envs), lanes=True)
        flags = self._put_flags(steps)
        action, run.actor, run.ring = programs.interact(run.train.params, run.actor, run.ring, timestep, *flags)
        due, taken = np.zeros(len(steps), np.int32), self.envs.steps_taken
        for i in np.flatnonzero(steps).tolist():
            due[i] = self._seeds[i].acted(int(taken[i]), phase, programs)
        self._learn(due)
        if renew_envs:
            self._renew_envs(steps)
            return
        for i, score, length in self.envs.step(place.fetch(action), steps):
            self._seeds[i].end_episode(score, length)

    def _learn(self, due: np.ndarray) -> None:
        """Makes the updates that are due, `[S]`, in whole cycles, and resets heads; a rest of a cycle stays due."""
        run, phase, programs = self.state, self.phase, self._programs
        updates_per_cycle = len(phase.learner.updates)
        while (cycles := self._cycles(due)).any():
            turn = pace.Due(self._since, phase.put_cycles(cycles))
            run.train, run.ring, info = programs.learn(run.train, run.ring, turn)
            updates, here = cycles * updates_per_cycle, self._parts.placement.local(info)
            resets = [
                i
                for i in np.flatnonzero(updates).tolist()
                if self._seeds[i].learned(int(updates[i]), self._info_of(i, here), phase, programs)
            ]
            self._info, due = info, due - updates
            if resets:
                assert programs.reset is not None  # a phase with resets has it
                run.train = programs.reset(run.train, *self._put_flags(self.flags(resets)))
                for i in resets:
                    self._seeds[i].write("reset", {})

    def _cycles(self, due: np.ndarray) -> np.ndarray:
        """Returns the cycles of a call of `learn`, `[S]` int32: of what is due up to the next reset of each seed."""
        updates_per_cycle, cycles = len(self.phase.learner.updates), np.zeros_like(due)
        for i in np.flatnonzero(due).tolist():
            most = self._seeds[i].updates_until_reset(self.phase, self.phase.updates_per_learn())
            cycles[i] = min(int(due[i]) // updates_per_cycle, math.ceil(most / updates_per_cycle))
        return cycles

    def _info_of(self, seed: int, info: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the metrics of one seed among those of `seeds_here`; none of a seed of another host."""
        seeds = self._parts.placement.seeds_here
        if seed not in seeds:
            return {}
        return OfSeed(info, seed - seeds.start) if len(seeds) > 1 else info

    def _renew_envs(self, cut: np.ndarray) -> None:
        """Makes new environments for all seeds; the episodes of the seeds `cut`, `[S]` bool, have ended."""
        for i in np.flatnonzero(cut).tolist():
            self._seeds[i].progress.pool += 1
        # A run that goes on longer makes them when it resumes.
        if any(each.progress.env_steps < self._config.total_steps for each in self._seeds.values()):
            self.envs.renew([self._seeds[i].progress.pool if i in self._seeds else 0 for i in range(len(cut))])

    def end_episodes(self, seeds: Iterable[int]) -> None:
        """Makes the newest rows of some seeds the last of their episodes, unless their environments are new."""
        ends = self.flags(seeds) & ~self.envs.untouched
        if not ends.any():
            return
        place, run = self._parts.placement, self.state
        end_episodes = place.map_seeds(functools.partial(replay.end_episodes, self.phase.ring_spec))
        with place.context():
            run.ring = jax.jit(end_episodes, donate_argnums=0)(run.ring, *self._put_flags(ends))
        for i in np.flatnonzero(ends).tolist():
            self._seeds[i].progress.pool += 1

    def freeze(self, *, warn: Callable[[str], None], stop: Callable[[], bool]) -> None:
        """Turns frames into latents, compiles the programs of the frozen phase and writes the records of the freeze.

        Args:
          warn: receives one line if there is no snapshot of the frames.
          stop: called before each part; True ends the handover, which can be done again from its start.

        Raises:
          HandoverError: frames could not become latents.
          HandoverStopped: `stop` returned True; the frames are those that there were.
        """
        run, parts, seeds = self.state, self._parts, self._seeds
        began = time.monotonic()
        try:
            run.train, run.ring = handover.freeze(
                parts.full,
                parts.frozen,
                run.train,
                run.ring,
                {
                    i: handover.SeedFreeze(each.run_dir / checkpoint.DIRECTORY / _SNAPSHOT_DIRECTORY, each.keys.freeze)
                    for i, each in seeds.items()
                },
                memory_bytes=min(self._hosts.exchange(needs.device_memory())),
                warn=warn,
                stop=stop,
                hosts=self._hosts,
            )
        except handover.HandoverStopped as stopped:
            run.ring = stopped.ring
            raise
        jax.block_until_ready(run.ring)
        seconds = time.monotonic() - began
        obs = jax.ShapeDtypeStruct((1, *parts.full.actor.stack.shape[1:]), np.uint8)
        encode = functools.partial(base.latents_to_store, parts.agent)
        cost = flops.cost_of(encode, parts.full.state.params, obs, jax.ShapeDtypeStruct((2,), np.uint32))
        self.phase, run.phase, run.encoders = parts.frozen, FROZEN, [{} for _ in run.encoders]
        for each in seeds.values():
            each.begin_frozen(parts.full, parts.frozen)
            each.progress.ledger.add({"handover": cost * each.progress.rows})
        rows = {i: each.progress.rows for i, each in seeds.items()}
        self.compile()
        for i, each in seeds.items():
            each.froze(seconds, rows_moved=rows[i])

    def compile_measuring(self) -> None:
        """Compiles the program of signals, if that is not done yet: for the first one, since short runs have none."""
        if self._measuring is None:
            with status.activity("compiling the program of signals"):
                self._measuring = Measuring(self._parts, self._hosts)

    def measure(self, seeds: Iterable[int]) -> None:
        """Measures the signals of some seeds, writes their records and keeps their encoders for later signals.

        `compile_measuring` has been called.
        """
        run, measuring = self.state, self._measuring
        assert measuring is not None
        jax.block_until_ready(run.train)
        began, kept = time.monotonic(), run.encoders
        env_steps = {i: self._seeds[i].progress.env_steps for i in seeds}
        products = measuring.measure(run, env_steps)
        found = {i: signals.fields(products[i], kept[i], steps) for i, steps in env_steps.items()}
        encoders = self._parts.placement.unstack(signals.encoder_of(run.train.params), self._hosts)
        for i, steps in env_steps.items():
            # Copies: the next update consumes the arrays of one seed.
            kept[i] = signals.keep(kept[i], steps, jax.tree.map(np.array, encoders[i]))
        seconds = time.monotonic() - began  # of all seeds, as the seconds of a run are
        for i, fields in found.items():
            self._seeds[i].measured(fields, seconds, measuring.cost)

    def finite(self) -> np.ndarray:
        """Returns for each seed, `[S]` bool, whether its parameters and its last metrics are finite."""
        place = self._parts.placement
        numbers, tree = place.seeds_here, place.local((self.state.train.params, self._info))
        here = np.broadcast_to(_finite(tree, len(numbers) > 1), len(numbers))
        finite = np.ones(self._config.num_seeds, bool)
        for first, values in self._hosts.exchange([numbers.start, here.tolist()]):
            finite[first : first + len(values)] = values
        return finite

    def read_info(self) -> None:
        """Makes the metrics of all seeds numbers on all hosts; with one host they are read where they are needed."""
        if self._hosts.count == 1:
            return
        here = [i for i in self._parts.placement.seeds_first_here if i in self._seeds]
        infos = {i: self._seeds[i].progress.info for i in here}
        mine = [[i, {name: float(value) for name, value in info.items()}] for i, info in infos.items()]
        for i, info in (each for of_host in self._hosts.exchange(mine) for each in of_host):
            self._seeds[i].progress.info = info


@functools.partial(jax.jit, static_argnums=1)
def _finite(tree: Any, by_seed: bool) -> jax.Array:
    """Returns whether all numbers are finite, or, with an axis of seeds, for each seed."""
    leaves = [x.reshape(x.shape[0], -1) if by_seed else x for x in jax.tree.leaves(tree)]
    return jnp.stack([jnp.isfinite(x).all(axis=1 if by_seed else None) for x in leaves]).all(axis=0)
