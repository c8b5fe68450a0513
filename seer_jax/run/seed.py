"""One seed of a run on the host: its progress, its directory and its records. A run has one or several."""

import dataclasses
import enum
import pathlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from seer_jax import files, flops
from seer_jax.agents import base
from seer_jax.config import RunConfig
from seer_jax.run import best, checkpoint, evaluation, lock, metrics, resolve
from seer_jax.run.progress import Progress
from seer_jax.run.records import Receiver, Record, RecordWriter
from seer_jax.seer import pace
from seer_jax.seer.hosts import Hosts
from seer_jax.seer.phases import FROZEN, FULL, Phase, Programs

PARAMS_DIRECTORY = "params"  # in the directory of a run
_WARM_UP = "warm-up"


def configs_of(config: RunConfig) -> list[RunConfig]:
    """Returns the configuration of each seed of a run, which is that of a run of this seed alone."""
    if config.num_seeds == 1:
        return [config]
    mesh = dataclasses.replace(config.mesh, seed=1)
    return [dataclasses.replace(config, seed=config.seed + i, num_seeds=1, mesh=mesh) for i in range(config.num_seeds)]


def directories_of(config: RunConfig, run_dir: pathlib.Path) -> list[pathlib.Path]:
    """Returns the directory of each seed of a run: `run_dir/seed-N`, or `run_dir` of a run of one seed."""
    if config.num_seeds == 1:
        return [run_dir]
    return [run_dir / f"seed-{each.seed}" for each in configs_of(config)]


class Next(enum.Enum):
    """What a seed does next. All but a step is done when no seed steps any more."""

    STEP = enum.auto()
    EVALUATE = enum.auto()
    MEASURE = enum.auto()  # signals
    SAVE = enum.auto()  # write the checkpoint that the last step has prepared
    FREEZE = enum.auto()
    LAST_STEP = enum.auto()  # before a checkpoint: it ends all episodes
    END = enum.auto()


class Keys:
    """PRNG keys of a seed.

    Args:
      seed: of the run.

    Attributes:
      agent: of the training state.
      actor: of acting.
      eval: of evaluations.
      freeze: of the handover.
      signal: of the states on which signals are measured.
    """

    def __init__(self, seed: int) -> None:
        key = jax.random.PRNGKey(seed)
        self.agent, self.actor, self.eval, self.freeze = jax.random.split(key, 4)
        self.signal = jax.random.fold_in(key, 4)  # a split into five would change the others


class Seed:
    """The progress and the records of one seed.

    Args:
      config: configuration of the seed.
      run_dir: its directory.
      saved: checkpoint to continue from; None starts from the first step.
      phase: name of the phase that the run begins or continues in.
      receivers: each is called with every record.
      warn: receives one line about a failure that does not end the run.
      check_run_dir: raises an error if the directory is not that of the run any more; called before each write.
      hosts: the hosts of the run, of which process 0 alone writes; None stands for one.
    """

    def __init__(
        self,
        config: RunConfig,
        run_dir: pathlib.Path,
        *,
        saved: checkpoint.Checkpoint | None,
        phase: str,
        receivers: Sequence[Receiver],
        warn: Callable[[str], None],
        check_run_dir: Callable[[], None],
        hosts: Hosts | None = None,
    ) -> None:
        self._hosts = hosts or Hosts()
        self.config, self.run_dir, self.keys, self._warn = config, run_dir, Keys(config.seed), warn
        self._check_run_dir = check_run_dir
        self.progress = Progress(phase=phase) if saved is None else Progress.from_json(saved.progress)
        self.saving = False  # whether the checkpoint of the last step is still to be written
        self.metrics = None
        if self._hosts.leads:
            self.metrics = metrics.MetricsWriter(
                run_dir,
                offset=saved.progress["metrics_bytes"] if saved else 0,
                env_steps=self.progress.env_steps,
                hparams=resolve.flat(config.to_dict()),
                warn=warn,
            )
        receivers = [self.metrics.write, *receivers] if self.metrics else []
        self._records = RecordWriter(receivers, frames_per_step=config.env.action_repeat)

    def next(self, arrived: int) -> Next:
        """Returns what this seed does next.

        Args:
          arrived: agent steps that led to what has arrived from its environments.
        """
        config, progress = self.config, self.progress
        last_eval = progress.evals[-1]["env_steps"] if progress.evals else 0
        over = progress.env_steps >= config.total_steps
        if crossed(config.eval_every, last_eval, progress.env_steps) or (over and last_eval < progress.env_steps):
            return Next.EVALUATE
        if self._measures:
            return Next.MEASURE
        if self.saving:
            return Next.SAVE
        if over:
            return Next.END
        if progress.phase == FULL and config.seer.enabled and progress.env_steps >= config.full_steps:
            return Next.FREEZE
        # The last step of a run ends episodes as each checkpoint does: a run with more `total_steps` may go on from it.
        after = progress.env_steps + arrived
        saves = (
            after >= config.total_steps
            or crossed(config.checkpoint_every, progress.env_steps, after)
            or is_forkable(config, progress.env_steps, after)
        )
        return Next.LAST_STEP if saves else Next.STEP

    @property
    def _measures(self) -> bool:
        """Whether a signal is due: in the full phase, and only after learning has begun."""
        config, progress = self.config, self.progress
        since = config.learn_start if progress.last_signal is None else progress.last_signal
        return progress.phase == FULL and crossed(config.seer.signal_every, since, progress.env_steps)

    def to_json(self) -> dict[str, Any]:
        """Returns what a checkpoint holds of the seed, for JSON: its progress, and whether the checkpoint stays."""
        stays = is_forkable(self.config, self.progress.steps_before, self.progress.env_steps)
        assert self.metrics is not None  # in the process that writes
        return self.progress.to_json() | {"metrics_bytes": self.metrics.sync(), "stays": stays}

    @property
    def since(self) -> Sequence[int]:
        """From what the replay ratio counts, as in `pace.Due`."""
        return self.progress.updates_since or pace.since_start(self.config.learn_start)

    def acted(self, steps: int, phase: Phase, programs: Programs) -> int:
        """Counts a vector step.

        Args:
          steps: agent steps of it.
          phase: the phase.
          programs: of the phase.

        Returns:
          Updates that are due.
        """
        config, progress = self.config, self.progress
        progress.steps_before = progress.env_steps
        progress.env_steps += steps
        progress.rows = min(progress.rows + config.num_envs, phase.ring_spec.capacity)
        progress.ledger.add(programs.interact_costs)
        due = pace.updates_due(phase.replay_ratio, self.since, progress.env_steps)
        return max(0, due - progress.updates)  # less than 0 before learning starts

    def learned(self, updates: int, info: Mapping[str, Any], phase: Phase, programs: Programs) -> bool:
        """Counts updates of a call of `learn`, the first of which ends the warm-up; `info` are their metrics.

        Returns:
          Whether the heads are to be reset now.
        """
        progress, first = self.progress, not self.progress.updates
        progress.updates += updates
        progress.info = info
        progress.ledger.add({kind: cost * updates for kind, cost in programs.update_costs.items()})
        if first:
            progress.clock.book(_WARM_UP, progress.env_steps)
        since = progress.updates - (progress.resets_since or 0)
        return crossed(phase.reset_heads_every, since - updates, since)

    def updates_until_reset(self, phase: Phase, updates: int) -> int:
        """Returns how many of `updates` come before a reset of the heads: all of them if there is none among them."""
        every, since = phase.reset_heads_every, self.progress.updates - (self.progress.resets_since or 0)
        return min(updates, every - since % every) if every else updates

    def book_time(self) -> None:
        """Counts the time so far to the phase."""
        # Steps before learning starts are fast and say nothing about the speed of a phase.
        progress = self.progress
        progress.clock.book(progress.phase if progress.updates else _WARM_UP, progress.env_steps)

    def log(self) -> None:
        """Writes a record of kind `train`."""
        self.book_time()
        progress = self.progress
        rate = progress.clock.steps_per_second(progress.phase)
        info = {name: float(value) for name, value in progress.info.items()}
        recent = float(np.mean(progress.recent)) if progress.recent else None
        self.write("train", info | {"steps_per_second": rate, "return_mean": recent} | progress.ledger.by_kind())

    def end_episode(self, score: float, length: int) -> None:
        """Writes the record of a training episode of `length` agent steps."""
        self.write("episode", {"return": score, "length": length})
        self.progress.recent.append(score)

    def evaluated(self, played: evaluation.Episodes) -> None:
        """Writes the record of an evaluation."""
        fields, reason = evaluation.summary(self.config, played)
        if reason and not self.progress.evals:
            self._warn(reason)
        self.progress.evals = [*self.progress.evals[:1], self.write("eval", fields)]

    def measured(self, fields: Mapping[str, float], seconds: float, cost: flops.Cost) -> None:
        """Writes the record of a signal.

        Args:
          fields: from `signals.fields`.
          seconds: that measuring took, of all seeds that were measured with this one.
          cost: of measuring.
        """
        self.progress.ledger.add({"signal": cost})
        self.progress.last_signal = self.progress.env_steps
        self.write("signal", {**fields, "measure_seconds": seconds})

    def keep_best(self, train: base.TrainState) -> None:
        """Keeps the training state of the last evaluation if it is the best one."""
        if not self._hosts.leads:
            return
        best.keep_if_better(self.run_dir, self.progress, train, self.warn_of_failed_write)

    def keep_params(self, params: base.Params) -> None:
        """Keeps a copy of the parameters for later analysis; the run itself does not need it."""
        if not self._hosts.leads:
            return
        env_steps, directory = self.progress.env_steps, self.run_dir / PARAMS_DIRECTORY
        self._check_run_dir()
        try:
            directory.mkdir(exist_ok=True)
            files.save_tree(directory / f"{env_steps:09d}", {"params": params})
        except OSError as error:
            self.warn_of_failed_write(f"no copy of the parameters after {env_steps:,} steps ({error.strerror})")

    def begin_frozen(self, full: Phase, frozen: Phase) -> None:
        """Counts from here on in the frozen phase, by its replay ratio and its period of resets if these differ."""
        progress = self.progress
        progress.phase = FROZEN
        if frozen.replay_ratio != full.replay_ratio and progress.env_steps > self.since[0]:
            progress.updates_since = pace.since_now(full.replay_ratio, self.since, progress.env_steps)
        if frozen.reset_heads_every != full.reset_heads_every:
            progress.resets_since = progress.updates

    def froze(self, seconds: float, *, rows_moved: int) -> None:
        """Writes the record of the freeze; the handover took `seconds`."""
        before = self.progress.costs[FULL]
        self.write(
            "freeze",
            {
                "rows_moved": rows_moved,
                "handover_seconds": seconds,
                "replay_bytes_before": before["replay_bytes"],
                "replay_capacity_before": before["replay_capacity"],
            },
        )

    def describe_failed_save(self, error: OSError, run_dir: pathlib.Path) -> str:
        """Returns the line about a checkpoint that could not be written: what there is instead, and what to do.

        Args:
          error: why it could not be written.
          run_dir: directory of the run, which may be one of several seeds.
        """
        message = f"no checkpoint after {self.progress.env_steps:,} steps ({error.strerror})"
        if isinstance(error, checkpoint.StateOnlyError):
            message += "; the training state alone is saved, for evaluate and seer.init_from"
            if not checkpoint.numbered(self.run_dir / checkpoint.DIRECTORY):
                return f"{message}; there is no earlier checkpoint to resume from"
        return f"{message}; earlier ones are intact; continue with --run_dir={shlex.quote(str(run_dir))} --resume"

    def describe_bad_numbers(self) -> str:
        """Returns the line about a loss or a parameter that is not finite."""
        good = checkpoint.newest(self.run_dir / checkpoint.DIRECTORY, self._warn, state_only=True)
        return (
            f"a loss or a parameter is not finite after {self.progress.env_steps:,} agent steps; the last good"
            f" checkpoint is {good.directory if good else 'none'}; lower agent.learning_rate, or go on with"
            " on_nan=ignore"
        )

    def end(self, params: base.Params) -> Record:
        """Writes the record of kind `end` and returns it."""
        progress = self.progress
        kept = ("eval_return_mean", "eval_return_std", "eval_length_mean", "human_normalized")
        summary: dict[str, Any] = {name: progress.evals[-1][name] for name in kept}
        for phase, cost in progress.costs.items():
            rate = {f"{phase}_steps_per_second": progress.clock.steps_per_second(phase)}
            summary |= rate | {f"{phase}_{name}": value for name, value in cost.items()}
        checksum = {"params_sha256": checkpoint.params_sha256(params)}
        return self.write("end", summary | progress.ledger.by_kind() | checksum)

    def close(self) -> None:
        """Closes the files."""
        if self.metrics is not None:
            self.metrics.close()

    def warn_of_failed_write(self, message: str) -> None:
        self._check_run_dir()  # without the directory no write succeeds, and the run ends
        self._warn(message)

    def write(self, kind: str, fields: Record) -> Record:
        """Writes a record and returns it; with several hosts, all of them raise an error, at their next exchange."""
        try:
            self._check_run_dir()
            return self._records.write(kind, self.progress, fields)
        except (metrics.WriteError, lock.RunDirectoryLostError) as error:
            self._hosts.defer(error)
            return self._records.complete(kind, self.progress, fields)


class OfSeed(Mapping[str, Any]):
    """Metrics of one seed among those of all, `[S]`, which stay on the device until they are read.

    Args:
      metrics: of all seeds.
      seed: number of the seed, from 0 on.
    """

    def __init__(self, metrics: Mapping[str, jax.Array], seed: int) -> None:
        self._metrics, self._seed = metrics, seed

    def __getitem__(self, name: str) -> Any:
        return np.asarray(self._metrics[name])[self._seed]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)


def is_forkable(config: RunConfig, before: int, after: int) -> bool:
    """Returns whether a step of `checkpoint_at` lies in (before, after], so that a checkpoint stays on the disk."""
    return any(before < step <= after for step in config.checkpoint_at)


def crossed(every: int, before: int, after: int) -> bool:
    """Returns whether a multiple of `every` lies in (before, after]; 0 has none."""
    return every > 0 and after // every > before // every
