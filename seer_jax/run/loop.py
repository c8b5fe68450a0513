"""The loop of a run: what is due when. Steps, freezes, evaluates and saves all its seeds at their cadences.

All hosts of a run run the same loop and take the same decisions. Their arrays are parts of the same arrays, and each
steps the environments whose rows lie on its devices. Process 0 alone writes.
"""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax

from seer_jax import status
from seer_jax.agents import base
from seer_jax.envs.timestep import EnvironmentFailedError, InvalidTimeStepError, VectorEnv
from seer_jax.run import best, checkpoint, display, state
from seer_jax.run import run_dir as run_dir_lib
from seer_jax.run.assembly import Assembly
from seer_jax.run.evaluation import EvaluationStopped
from seer_jax.run.evaluator import Evaluator
from seer_jax.run.records import Receiver, Record
from seer_jax.run.seed import Next, Seed, configs_of, crossed, directories_of
from seer_jax.run.stepper import Stepper
from seer_jax.run.training_envs import TrainingEnvs
from seer_jax.seer import handover
from seer_jax.seer.hosts import Hosts


class RunStopped(Exception):
    """A run was asked to stop, wrote a checkpoint and stopped."""


class CheckpointSaveError(Exception):
    """The last checkpoint of a run could not be written, or not all of it; earlier ones are intact."""


class NonFiniteError(Exception):
    """A loss or a parameter is infinite or not a number; the message names the last good checkpoint."""


class Loop:
    """One run: the cadences of what its `Stepper` and its `Evaluator` do, and of what is written.

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
        envs = TrainingEnvs(self._config, env, parts.placement, hosts)
        self._evaluator = Evaluator(parts, hosts)
        if saved is None:
            begun = state.begin(parts, encoder)
        else:
            with status.activity("reading the checkpoint"):
                begun = state.restore(parts, saved, hosts)
        self._display = display.Display(self._config, run_dir) if hosts.leads else None
        self._seeds = self._open_seeds(saved, begun.phase, receivers)
        self._stepper = Stepper(parts, begun, envs, self._seeds, hosts)

    def _open_seeds(
        self, saved: Sequence[checkpoint.Checkpoint | None] | None, phase: str, receivers: Sequence[Receiver]
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
                phase=phase,
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
        except (EvaluationStopped, handover.HandoverStopped):
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
            self._stepper.compile()
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
        arrived = self._stepper.envs.steps_taken
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
        elif measured := seeds_by_next.get(Next.MEASURE):
            with self._untimed():
                self._stepper.compile_measuring()
            self._stepper.measure(measured)
        elif saved := seeds_by_next.get(Next.SAVE):
            with self._untimed():
                self._save(saved)
        else:
            assert seeds_by_next.keys() <= {Next.FREEZE, Next.END}, seeds_by_next  # see `rules`
            with self._untimed():
                self._check_run_dir()
                self._stepper.freeze(warn=self._warn_of_failed_write, stop=stop)
        return True

    def _stop(self, steps: list[int], *, ended: list[int]) -> None:
        """Ends all episodes, writes checkpoints and raises RunStopped.

        Args:
          steps: the seeds that step next; the others wait for something else.
          ended: the seeds that have ended.
        """
        going_on = [i for i in self._seeds if i not in ended]
        self._stepper.end_episodes([i for i in going_on if i not in steps])
        self._step(steps, renew_envs=True)
        with self._untimed():
            self._save(going_on)
        raise RunStopped

    def _step(self, seeds: list[int], *, renew_envs: bool = False) -> None:
        """Steps the environments of some seeds once, and logs and keeps parameters as far as that is due."""
        before = {i: self._seeds[i].progress.env_steps for i in seeds}
        self._stepper.vector_step(self._stepper.flags(seeds), renew_envs=renew_envs)
        now = {i: self._seeds[i].progress.env_steps for i in seeds}
        for i in seeds:
            self._seeds[i].saving = renew_envs
        if logged := [i for i in seeds if crossed(self._config.log_every, before[i], now[i])]:
            self._check_finite()
            self._stepper.read_info()
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
        jax.block_until_ready(self._stepper.state.train)
        for each in self._seeds.values():
            each.book_time()
        try:
            yield
        finally:
            self._skip_time()

    def _skip_time(self) -> None:
        for each in self._seeds.values():
            each.progress.clock.skip()

    def _save_between_steps(self) -> None:
        """Writes checkpoints without another step.

        The arrivals of the last step are not in the ring, and are lost. The rows before them become the last of their
        episodes, since a resumed run has new environments. If a checkpoint was due, they are already: then the resumed
        run is the same as one that was not interrupted.
        """
        total = self._config.total_steps
        self._stepper.end_episodes([i for i, each in self._seeds.items() if each.progress.env_steps < total])
        with self._untimed():
            self._save([i for i, each in self._seeds.items() if each.saving or each.progress.env_steps < total])

    def _evaluate(self, seeds: list[int], stop: Callable[[], bool]) -> None:
        env_steps = {i: self._seeds[i].progress.env_steps for i in seeds}
        for i, played in self._evaluator.play(self._stepper.state.train.params, env_steps, stop).items():
            self._seeds[i].evaluated(played)
        if self._config.keep_best:
            trains = self._parts.placement.unstack(self._stepper.state.train, self._hosts)
            for i in seeds:
                self._seeds[i].keep_best(trains[i])

    def _check_finite(self) -> None:
        """Raises NonFiniteError or gives up the seeds whose numbers are bad, as `on_nan` says."""
        config = self._config
        if config.on_nan == "ignore":
            return
        finite = self._stepper.finite()
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
        params = self._parts.placement.unstack(self._stepper.state.train.params, self._hosts)
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
        self._stepper.read_info()
        going_on = {i: self._seeds[i] for i in seeds if i in self._seeds}
        saved = state.save(self._stepper.state, self._parts, going_on, self._hosts)
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
        params = self._parts.placement.unstack(self._stepper.state.train.params, self._hosts)
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
        self._stepper.envs.close()


def _naming_seed(seed: int, receiver: Receiver) -> Receiver:
    return lambda record: receiver({"seed": seed} | record)
