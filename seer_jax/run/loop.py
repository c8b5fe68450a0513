"""The loop of a run: steps environments and programs of all its seeds, and does in between what is due.

All hosts of a run run the same loop and take the same decisions. Their arrays are parts of the same arrays, and each
steps the environments whose rows lie on its devices. Process 0 alone writes.
"""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax import flops, replay, status
from seer_jax.agents import base
from seer_jax.envs.timestep import EnvironmentFailedError, InvalidTimeStepError, VectorEnv
from seer_jax.run import best, checkpoint, display, evaluation, needs, state
from seer_jax.run import run_dir as run_dir_lib
from seer_jax.run.assembly import Assembly
from seer_jax.run.evaluation import EvaluationStopped
from seer_jax.run.records import Receiver, Record
from seer_jax.run.seed import Keys, Next, OfSeed, Seed, configs_of, crossed, directories_of
from seer_jax.run.training_envs import TrainingEnvs
from seer_jax.seer import handover
from seer_jax.seer.hosts import Hosts
from seer_jax.seer.phases import FROZEN

SNAPSHOT_DIRECTORY = "freeze"  # among the checkpoints
_EVAL_STEPS_PER_EXCHANGE = 64  # between two questions to the other hosts whether to stop


class RunStopped(Exception):
    """A run was asked to stop, wrote a checkpoint and stopped."""


class CheckpointSaveError(Exception):
    """The last checkpoint of a run could not be written, or not all of it; earlier ones are intact."""


class NonFiniteError(Exception):
    """A loss or a parameter is infinite or not a number; the message names the last good checkpoint."""


class Loop:
    """One run: environments on the host, arrays on the device, and the cadences of what is done when.

    Its seeds are trained together. The end of an episode costs a row, so that they do not take the same number of
    agent steps in the same time. A seed that has something else to do than a step therefore waits for the others:
    evaluations, checkpoints and the freeze come when no seed steps any more.

    Args:
      parts: the assembly of the run.
      env: its training environments, those of all seeds, as far as they belong to this host.
      run_dir: directory of the run.
      encoder: encoder of another run to start from; None starts from a new one.
      saved: for each seed the checkpoint to continue from, or None for one that does not; None starts all of them from
        the first step.
      receivers: each is called with every record; of several seeds, with the field `seed` in it.
      warn: receives one line about a failure that does not end the run.
      check_run_dir: raises an error if the directory is not that of the run any more; called before each write.
      hosts: the hosts of the run; None stands for one.
    """

    @status.activity("preparing the run")
    def __init__(
        self,
        parts: Assembly,
        env: VectorEnv,
        run_dir: pathlib.Path,
        *,
        encoder: base.Params | None,
        saved: Sequence[checkpoint.Checkpoint | None] | None,
        receivers: Sequence[Receiver],
        warn: Callable[[str], None],
        check_run_dir: Callable[[], None],
        hosts: Hosts | None = None,
    ) -> None:
        self._hosts = hosts = hosts or Hosts()
        self._parts, self._config, self._run_dir, self._warn = parts, parts.config, run_dir, warn
        self._check_run_dir, self._resumed = check_run_dir, saved is not None
        self._envs = TrainingEnvs(self._config, env, parts.placement, hosts)
        self._keys = [Keys(config.seed) for config in configs_of(self._config)]
        if saved is None:
            self._state = state.begin(parts, encoder, self._keys)
        else:
            with status.activity("reading the checkpoint"):
                self._state = state.restore(parts, saved, hosts)
        self._display = display.Display(self._config, run_dir) if hosts.leads else None
        self._seeds = self._open_seeds(saved, receivers)
        self._info: Mapping[str, Any] = {}
        self._phase = parts.phase(self._state.phase)
        self._eval_act = evaluation.make_act(
            parts.agent, first_stack=self._config.env.first_stack, map_seeds=parts.placement.here.map_seeds
        )

    def _open_seeds(
        self, saved: Sequence[checkpoint.Checkpoint | None] | None, receivers: Sequence[Receiver]
    ) -> dict[int, Seed]:
        """Returns the seeds that train, by number from 0 on."""
        configs, directories = configs_of(self._config), directories_of(self._config, self._run_dir)
        seeds: dict[int, Seed] = {}
        for i, (config, directory) in enumerate(zip(configs, directories, strict=True)):
            start = None if saved is None else saved[i]
            named = receivers if len(configs) == 1 else [_naming_seed(config.seed, each) for each in receivers]
            if start is None and saved is not None:
                continue
            if self._config.num_seeds > 1 and self._hosts.leads:
                # Newer ones are of a seed that goes back to where the others are.
                checkpoint.remove_newer(directory / checkpoint.DIRECTORY, start.progress["pool"] if start else 0)
            seeds[i] = Seed(
                config,
                directory,
                saved=start,
                phase=self._state.phase,
                receivers=[functools.partial(self._display.show, config.seed), *named] if self._display else [],
                warn=self._warn,
                check_run_dir=self._check_run_dir,
                hosts=self._hosts,
            )
        return seeds

    def train(self, stop: Callable[[], bool]) -> Record:
        """Runs to `total_steps`, or until `stop`, and returns the record of kind `end`.

        If environments fail, or a stop interrupts an evaluation or the handover, it saves what there is.
        """
        try:
            with status.activity(self._stepping):
                return self._train(stop)
        except (EvaluationStopped, handover.HandoverStopped) as stopped:
            if isinstance(stopped, handover.HandoverStopped):
                self._state.ring = stopped.ring
            self._save_between_steps()
            raise RunStopped from None
        except (EnvironmentFailedError, InvalidTimeStepError):
            try:
                self._save_between_steps()
            except NonFiniteError as error:  # not what ended the run
                self._warn(str(error))
            raise

    def _train(self, stop: Callable[[], bool]) -> Record:
        for each in self._seeds.values():
            if self._resumed:
                each.write("checkpoint", {})  # this line followed the checkpoint, and was cut off with the rest
            self._remove_unused_best(each)
        if any(each.progress.env_steps < self._config.total_steps for each in self._seeds.values()):
            self._compile()
        self._skip_time()
        if self._config.params_every and not self._resumed:
            self._keep_params(range(self._config.num_seeds))
        while self._advance(stop):
            pass
        with self._untimed():
            return self._end()

    def _stepping(self) -> str:
        config, slowest = self._config, min((each.progress for each in self._seeds.values()), key=lambda p: p.env_steps)
        if not slowest.updates:
            return f"filling the replay: {slowest.env_steps:,} of {config.learn_start:,} steps"
        return f"training: {slowest.env_steps:,} of {config.total_steps:,} steps"

    def _advance(self, stop: Callable[[], bool]) -> bool:
        """Does what the seeds do next, those that step first; returns False if all have ended."""
        arrived = self._envs.steps_taken
        seeds_by_next: dict[Next, list[int]] = {}
        for i, each in self._seeds.items():
            seeds_by_next.setdefault(each.next(int(arrived[i])), []).append(i)
        steps, last_steps = (seeds_by_next.get(kind, []) for kind in (Next.STEP, Next.LAST_STEP))
        if steps or seeds_by_next.keys() <= {Next.LAST_STEP, Next.END}:
            if (steps or last_steps) and stop():
                self._stop(steps + last_steps, ended=seeds_by_next.get(Next.END, []))
            if steps:
                self._step(steps)
            elif last_steps:
                self._step(last_steps, renew_envs=True)
            else:
                return False
        elif evaluated := seeds_by_next.get(Next.EVALUATE):
            with self._untimed():
                self._evaluate(evaluated, stop)
        elif saved := seeds_by_next.get(Next.SAVE):
            with self._untimed():
                self._save(saved)
        else:
            assert seeds_by_next.keys() <= {Next.FREEZE, Next.END}, seeds_by_next  # see `rules`
            with self._untimed():
                self._freeze(stop)
        return True

    def _stop(self, steps: list[int], *, ended: list[int]) -> None:
        """Ends all episodes, writes checkpoints and raises RunStopped.

        Args:
          steps: the seeds that step next; the others wait for something else.
          ended: the seeds that have ended.
        """
        going_on = [i for i in self._seeds if i not in ended]
        self._end_episodes([i for i in going_on if i not in steps])
        self._step(steps, renew_envs=True)
        with self._untimed():
            self._save(going_on)
        raise RunStopped

    def _step(self, seeds: list[int], *, renew_envs: bool = False) -> None:
        """Steps the environments of some seeds once, and logs and keeps parameters as far as that is due."""
        before = {i: self._seeds[i].progress.env_steps for i in seeds}
        self.vector_step(self._flags(seeds), renew_envs=renew_envs)
        now = {i: self._seeds[i].progress.env_steps for i in seeds}
        for i in seeds:
            self._seeds[i].saving = renew_envs
        if logged := [i for i in seeds if crossed(self._config.log_every, before[i], now[i])]:
            self._check_finite()
            self._read_info()
            for i in logged:
                if i in self._seeds:
                    self._seeds[i].log()
        kept = [i for i in seeds if i in self._seeds and crossed(self._config.params_every, before[i], now[i])]
        if kept:
            with self._untimed():
                self._keep_params(kept)

    @contextlib.contextmanager
    def _untimed(self) -> Iterator[None]:
        """Counts the time so far to the phase, and the time inside to none."""
        jax.block_until_ready(self._state.train)
        for each in self._seeds.values():
            each.book_time()
        try:
            yield
        finally:
            self._skip_time()

    def _skip_time(self) -> None:
        for each in self._seeds.values():
            each.progress.clock.skip()

    def _flags(self, seeds: Iterable[int]) -> np.ndarray:
        """Returns `[S]` bool, True for these seeds."""
        flags = np.zeros(self._config.num_seeds, bool)
        flags[[*seeds]] = True
        return flags

    def _put_flags(self, flags: np.ndarray) -> tuple[jax.Array, ...]:
        """Returns the last arguments of a program: flags of several seeds, none for one."""
        return (self._parts.placement.put(flags, lanes=False),) if self._config.num_seeds > 1 else ()

    def vector_step(self, steps: np.ndarray, *, renew_envs: bool = False) -> None:
        """Steps all environments of some seeds once; `learn` runs on the device while they step on the host.

        Args:
          steps: `[S]` bool, the seeds.
          renew_envs: end all episodes here and make new environments, whose state cannot be saved. What comes after a
            checkpoint is then the same for a run that goes on and for one that resumes.
        """
        run, phase, programs, place = self._state, self._phase, self._programs, self._parts.placement
        # One transfer to the device and one back, both explicit: a transfer guard shows that there are no others.
        timestep = place.put(self._envs.take(steps, cut=steps & renew_envs), lanes=True)
        flags = self._put_flags(steps)
        action, run.actor, run.ring = programs.interact(run.train.params, run.actor, run.ring, timestep, *flags)
        learns, taken = np.zeros_like(steps), self._envs.steps_taken
        for i in np.flatnonzero(steps).tolist():
            due = self._seeds[i].acted(int(taken[i]), phase.ring_spec.capacity, programs)
            learns[i] = due >= phase.updates_per_learn
        if learns.any():
            run.train, run.ring, info = programs.learn(run.train, run.ring, *self._put_flags(learns))
            here = place.local(info)
            for i in np.flatnonzero(learns).tolist():
                self._seeds[i].learned(phase.updates_per_learn, self._info_of(i, here), programs)
            self._info = info
        if renew_envs:
            self._renew_envs(steps)
            return
        for i, score, length in self._envs.step(place.fetch(action), steps):
            self._seeds[i].end_episode(score, length)

    def _info_of(self, seed: int, info: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the metrics of one seed among those of `seeds_here`; none of a seed of another host."""
        seeds = self._parts.placement.seeds_here
        if seed not in seeds:
            return {}
        return OfSeed(info, seed - seeds.start) if len(seeds) > 1 else info

    def _read_info(self) -> None:
        """Makes the metrics of all seeds numbers on all hosts; with one host they are read where they are needed."""
        if self._hosts.count == 1:
            return
        here = [i for i in self._parts.placement.seeds_first_here if i in self._seeds]
        infos = {i: self._seeds[i].progress.info for i in here}
        mine = [[i, {name: float(value) for name, value in info.items()}] for i, info in infos.items()]
        for i, info in (each for of_host in self._hosts.exchange(mine) for each in of_host):
            self._seeds[i].progress.info = info

    def _renew_envs(self, cut: np.ndarray) -> None:
        """Makes new environments for all seeds; the episodes of the seeds `cut`, `[S]` bool, have ended."""
        for i in np.flatnonzero(cut).tolist():
            self._seeds[i].progress.pool += 1
        # A run that goes on longer makes them when it resumes.
        if any(each.progress.env_steps < self._config.total_steps for each in self._seeds.values()):
            self._envs.renew([self._seeds[i].progress.pool if i in self._seeds else 0 for i in range(len(cut))])

    def _save_between_steps(self) -> None:
        """Writes checkpoints without another step.

        The arrivals of the last step are not in the ring, and are lost. The rows before them become the last of their
        episodes, since a resumed run has new environments. If a checkpoint was due, they are already: then the resumed
        run is the same as one that was not interrupted.
        """
        total = self._config.total_steps
        self._end_episodes([i for i, each in self._seeds.items() if each.progress.env_steps < total])
        with self._untimed():
            self._save([i for i, each in self._seeds.items() if each.saving or each.progress.env_steps < total])

    def _end_episodes(self, seeds: list[int]) -> None:
        """Makes the newest rows of some seeds the last of their episodes, unless their environments are new."""
        ends = self._flags(seeds) & ~self._envs.untouched
        if not ends.any():
            return
        place, run = self._parts.placement, self._state
        end_episodes = place.map_seeds(functools.partial(replay.end_episodes, self._phase.ring_spec))
        with place.context():
            run.ring = jax.jit(end_episodes, donate_argnums=0)(run.ring, *self._put_flags(ends))
        for i in np.flatnonzero(ends).tolist():
            self._seeds[i].progress.pool += 1

    def _compile(self) -> None:
        """Compiles the programs of the phase that begins."""
        with status.activity(f"compiling the programs of the {self._phase.name} phase"):
            self._programs = self._phase.compile()
        per_step = self._programs.cost_per_step
        for each in self._seeds.values():
            each.progress.costs[self._phase.name] = {
                "flops_per_step": per_step.flops,
                "macs_per_step": per_step.macs,
                "replay_bytes": self._phase.ring.num_bytes,
                "replay_capacity": self._phase.ring_spec.capacity,
            }

    def _freeze(self, stop: Callable[[], bool]) -> None:
        self._check_run_dir()
        run, parts, seeds = self._state, self._parts, self._seeds
        began = time.monotonic()
        run.train, run.ring = handover.freeze(
            parts.full,
            parts.frozen,
            run.train,
            run.ring,
            {
                i: handover.SeedFreeze(each.run_dir / checkpoint.DIRECTORY / SNAPSHOT_DIRECTORY, each.keys.freeze)
                for i, each in seeds.items()
            },
            memory_bytes=min(self._hosts.exchange(needs.device_memory())),
            warn=self._warn_of_failed_write,
            stop=stop,
            hosts=self._hosts,
        )
        jax.block_until_ready(run.ring)
        seconds = time.monotonic() - began
        obs = jax.ShapeDtypeStruct((1, *parts.full.actor.stack.shape[1:]), np.uint8)
        encode = functools.partial(base.latents_to_store, parts.agent)
        cost = flops.cost_of(encode, parts.full.state.params, obs, jax.ShapeDtypeStruct((2,), np.uint32))
        self._phase, run.phase = parts.frozen, FROZEN
        for each in seeds.values():
            each.progress.phase = FROZEN
            each.progress.ledger.add({"handover": cost * each.progress.rows})
        rows = {i: each.progress.rows for i, each in seeds.items()}
        self._compile()
        for i, each in seeds.items():
            each.froze(seconds, rows_moved=rows[i])

    def _evaluate(self, seeds: list[int], stop: Callable[[], bool]) -> None:
        for i, played in self._play(seeds, stop).items():
            self._seeds[i].evaluated(played)
        if self._config.keep_best:
            trains = self._parts.placement.unstack(self._state.train, self._hosts)
            for i in seeds:
                self._seeds[i].keep_best(trains[i])

    def _play(self, seeds: list[int], stop: Callable[[], bool]) -> dict[int, evaluation.Episodes]:
        """Plays the episodes of an evaluation; the host of a seed's first environment plays those of this seed."""
        place, numbers = self._parts.placement, self._parts.placement.seeds_here
        mine = [i for i in seeds if i in place.seeds_first_here]
        env_steps = [self._seeds[i].progress.env_steps if i in self._seeds else 0 for i in numbers]
        keys = [jax.random.fold_in(self._keys[i].eval, steps) for i, steps in zip(numbers, env_steps, strict=True)]

        def play(stop: Callable[[], bool]) -> list[evaluation.Episodes]:
            return evaluation.play_new(
                dataclasses.replace(self._config, seed=self._config.seed + numbers.start),
                self._eval_act,
                place.local(self._state.train.params),
                place.here.stack(keys, lanes=False),
                env_steps=env_steps,
                plays=self._flags(mine)[numbers.start : numbers.stop],
                stop=stop,
            )

        def play_here(stop: Callable[[], bool]) -> list[tuple[int, evaluation.Episodes]]:
            return [(i, played) for i, played in zip(numbers, play(stop), strict=True) if i in mine] if mine else []

        found = self._hosts.apart(play_here, stop, EvaluationStopped, _EVAL_STEPS_PER_EXCHANGE)
        if self._hosts.count > 1:
            all_found = self._hosts.exchange([[i, *(x.tolist() for x in played)] for i, played in found])
            found = [(i, evaluation.Episodes(*map(np.asarray, x))) for of_host in all_found for i, *x in of_host]
        return dict(sorted(found, key=lambda item: item[0]))

    def _check_finite(self) -> None:
        """Raises NonFiniteError or gives up the seeds whose numbers are bad, as `on_nan` says."""
        config = self._config
        if config.on_nan == "ignore":
            return
        place = self._parts.placement
        numbers, tree = place.seeds_here, place.local((self._state.train.params, self._info))
        here = np.broadcast_to(_finite(tree, len(numbers) > 1), len(numbers))
        finite = np.ones(config.num_seeds, bool)
        for first, values in self._hosts.exchange([numbers.start, here.tolist()]):
            finite[first : first + len(values)] = values
        for i in [i for i in self._seeds if not finite[i]]:
            message = self._seeds[i].describe_bad_numbers()
            if config.on_nan == "stop" or len(self._seeds) == 1:
                raise NonFiniteError(message)
            self._warn(f"seed {self._seeds[i].config.seed} stops, and the others go on: {message}")
            self._record_stopped(self._seeds[i])
            self._seeds.pop(i).close()

    def _record_stopped(self, seed: Seed) -> None:
        if not self._hosts.leads:
            return
        try:
            run_dir_lib.record_stopped_seed(self._run_dir, seed.config.seed, seed.progress.env_steps)
        except (OSError, ValueError) as error:
            self._warn_of_failed_write(f"{run_dir_lib.MANIFEST_FILE} does not say that the seed stopped ({error})")

    def _keep_params(self, seeds: Iterable[int]) -> None:
        params = self._parts.placement.unstack(self._state.train.params, self._hosts)
        for i in seeds:
            self._seeds[i].keep_params(params[i])

    def _save(self, seeds: list[int]) -> None:
        """Writes checkpoints; earlier ones stay until those of all seeds are complete.

        Raises:
          CheckpointSaveError: the last one of a seed failed, or holds the training state alone.
          NonFiniteError: there is nothing good to save.
        """
        self._check_finite()
        self._check_run_dir()
        self._read_info()
        saved = state.save(
            self._state, self._parts, {i: self._seeds[i] for i in seeds if i in self._seeds}, self._hosts
        )
        for i, error in saved.items():
            each = self._seeds[i]
            each.saving = False
            if error is None:
                each.write("checkpoint", {})
                self._remove_unused_best(each)
            elif each.progress.env_steps >= self._config.total_steps:
                raise CheckpointSaveError(each.describe_failed_save(error, self._run_dir)) from None
            else:
                each.warn_of_failed_write(each.describe_failed_save(error, self._run_dir))

    def _remove_unused_best(self, seed: Seed) -> None:
        if self._hosts.leads:
            best.remove_unused(seed.run_dir, seed.progress)

    def _warn_of_failed_write(self, message: str) -> None:
        self._check_run_dir()  # without the directory no write succeeds, and the run ends
        self._warn(message)

    def _end(self) -> Record:
        params = self._parts.placement.unstack(self._state.train.params, self._hosts)
        records = {each.config.seed: each.end(params[i]) for i, each in self._seeds.items()}
        if self._display is not None:
            self._display.end(
                {
                    each.config.seed: display.End(
                        records[each.config.seed], each.progress.evals, list(each.progress.costs)
                    )
                    for each in self._seeds.values()
                }
            )
        return {"kind": "end", "seeds": records} if self._config.num_seeds > 1 else records[self._config.seed]

    def close(self) -> None:
        """Closes files, display and environments."""
        if self._display is not None:
            self._display.close()
        for each in self._seeds.values():
            each.close()
        self._envs.close()


def _naming_seed(seed: int, receiver: Receiver) -> Receiver:
    return lambda record: receiver({"seed": seed} | record)


@functools.partial(jax.jit, static_argnums=1)
def _finite(tree: Any, by_seed: bool) -> jax.Array:
    """Returns whether all numbers are finite, or, with an axis of seeds, for each seed."""
    leaves = [x.reshape(x.shape[0], -1) if by_seed else x for x in jax.tree.leaves(tree)]
    return jnp.stack([jnp.isfinite(x).all(axis=1 if by_seed else None) for x in leaves]).all(axis=0)
