"""The loop of a run: steps environments and programs, and keeps the cadences."""

import contextlib
import functools
import pathlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax import files, flops, replay, status
from seer_jax.agents import base
from seer_jax.envs.timestep import EnvironmentFailedError, InvalidTimeStepError, VectorEnv
from seer_jax.run import best, checkpoint, display, evaluation, metrics, needs, resolve, state
from seer_jax.run.assembly import Assembly
from seer_jax.run.evaluation import EvaluationStopped
from seer_jax.run.records import Receiver, Record, RecordWriter
from seer_jax.run.training_envs import TrainingEnvs
from seer_jax.seer import handover
from seer_jax.seer.phases import FROZEN, FULL

PARAMS_DIRECTORY = "params"  # in the directory of a run
SNAPSHOT_DIRECTORY = "freeze"  # among the checkpoints
_WARM_UP = "warm-up"


class RunStopped(Exception):
    """A run was asked to stop, wrote a checkpoint and stopped."""


class CheckpointSaveError(Exception):
    """The last checkpoint of a run could not be written, or not all of it; earlier ones are intact."""


class NonFiniteError(Exception):
    """A loss or a parameter is infinite or not a number; the message names the last good checkpoint."""


class Loop:
    """One run: environments on the host, arrays on the device, and the cadences of what is done when.

    Args:
      parts: the assembly of the run.
      env: its training environments.
      run_dir: directory of the run.
      encoder: encoder of another run to start from; None starts from a new one.
      saved: checkpoint of this run to continue from; None starts from the first step.
      receivers: each is called with every record.
      warn: receives one line about a failure that does not end the run.
      check_run_dir: raises an error if the directory is not that of the run any more; called before each write.
    """

    @status.activity("preparing the run")
    def __init__(
        self,
        parts: Assembly,
        env: VectorEnv,
        run_dir: pathlib.Path,
        *,
        encoder: base.Params | None,
        saved: checkpoint.Checkpoint | None,
        receivers: Sequence[Receiver],
        warn: Callable[[str], None],
        check_run_dir: Callable[[], None],
    ) -> None:
        self._check_run_dir = check_run_dir
        self._parts, self._config, self._run_dir, self._warn = parts, parts.config, run_dir, warn
        k_agent, k_actor, self._k_eval, self._k_freeze = jax.random.split(jax.random.PRNGKey(self._config.seed), 4)
        self._envs = TrainingEnvs(self._config, env)
        if saved is None:
            self._state = state.begin(parts, self._envs.timestep, encoder, k_agent=k_agent, k_actor=k_actor)
        else:
            with status.activity("reading the checkpoint"):
                self._state = state.restore(parts, saved)
        self._progress, self._resumed = self._state.progress, saved is not None
        self._phase = parts.phase(self._progress.phase)
        self._eval_act = evaluation.make_act(parts.agent, first_stack=self._config.env.first_stack)
        offset = saved.progress["metrics_bytes"] if saved else 0
        self._metrics = metrics.MetricsWriter(
            run_dir,
            offset=offset,
            env_steps=self._progress.env_steps,
            hparams=resolve.flat(self._config.to_dict()),
            warn=warn,
        )
        self._display = display.Display(self._config, run_dir)
        self._records = RecordWriter(
            [self._metrics.write, self._display.show, *receivers], frames_per_step=self._config.env.action_repeat
        )

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
        config, progress = self._config, self._progress
        if self._resumed:
            self._write("checkpoint", {})  # this line followed the checkpoint, and was cut off with the rest
        best.remove_unused(self._run_dir, progress)
        if progress.env_steps < config.total_steps:
            self._compile()
        progress.clock.skip()
        if config.params_every and not progress.env_steps:
            self._keep_params()
        self._evaluate_if_due(stop)  # an evaluation that was stopped
        while progress.env_steps < config.total_steps:
            if self._phase.name == FULL and config.seer.enabled and progress.env_steps >= config.seer.freeze_step:
                with self._untimed():
                    self._freeze(stop)
            before, learning, stopping = progress.env_steps, progress.updates > 0, stop()
            after = before + self._envs.steps_taken
            # The last step ends episodes as each checkpoint does: a run with more `total_steps` may go on from there.
            last = after >= config.total_steps
            saving = stopping or last or _crossed(config.checkpoint_every, before, after)
            self.vector_step(renew_envs=saving)
            if progress.updates and not learning:
                progress.clock.book(_WARM_UP, progress.env_steps)
            self._keep_cadences(before)
            self._evaluate_if_due(stop)
            if saving:
                with self._untimed():
                    self._save(last=last)
            if stopping:
                raise RunStopped
        with self._untimed():
            return self._end()

    def _stepping(self) -> str:
        config, progress = self._config, self._progress
        if not progress.updates:
            return f"filling the replay: {progress.env_steps:,} of {config.learn_start:,} steps"
        return f"training: {progress.env_steps:,} of {config.total_steps:,} steps"

    def _keep_cadences(self, before: int) -> None:
        """Logs and keeps parameters as far as due since `before`, in agent steps."""
        config, now = self._config, self._progress.env_steps
        if _crossed(config.log_every, before, now):
            self._log()
        if _crossed(config.params_every, before, now):
            with self._untimed():
                self._keep_params()

    def _evaluate_if_due(self, stop: Callable[[], bool]) -> None:
        """Evaluates if that is due since the last evaluation, or if the run ends."""
        evals, now = self._progress.evals, self._progress.env_steps
        last = evals[-1]["env_steps"] if evals else 0
        if _crossed(self._config.eval_every, last, now) or last < now >= self._config.total_steps:
            with self._untimed():
                self._evaluate(stop)

    @contextlib.contextmanager
    def _untimed(self) -> Iterator[None]:
        """Counts the time so far to the phase, and the time inside to none."""
        jax.block_until_ready(self._state.train)
        self._book_time()
        try:
            yield
        finally:
            self._progress.clock.skip()

    def _book_time(self) -> None:
        # Steps before learning starts are fast and say nothing about the speed of a phase.
        progress = self._progress
        progress.clock.book(progress.phase if progress.updates else _WARM_UP, progress.env_steps)

    def vector_step(self, *, renew_envs: bool = False) -> None:
        """Steps all environments once; `learn` runs on the device while they step on the host.

        Args:
          renew_envs: end all episodes here and make new environments, whose state cannot be saved. What comes after a
            checkpoint is then the same for a run that goes on and for one that resumes.
        """
        run, progress, config = self._state, self._progress, self._config
        # One transfer to the device and one back, both explicit: a transfer guard shows that there are no others.
        timestep = jax.device_put(self._envs.take(cut=renew_envs))
        action, run.actor, run.ring = self._programs.interact(run.train.params, run.actor, run.ring, timestep)
        progress.env_steps += self._envs.steps_taken
        progress.rows = min(progress.rows + config.num_envs, self._phase.ring_spec.capacity)
        progress.ledger.add(self._programs.interact_costs)
        updates_due = (progress.env_steps - config.learn_start) // config.update_every
        if updates_due - progress.updates >= self._phase.updates_per_learn:
            run.train, run.ring, progress.info = self._programs.learn(run.train, run.ring)
            progress.updates += self._phase.updates_per_learn
            progress.ledger.add(self._programs.learn_costs)
        if renew_envs:
            progress.pool += 1
            if progress.env_steps < config.total_steps:  # a run that goes on longer makes them when it resumes
                self._envs.renew(progress.pool)
            return
        for score, length in self._envs.step(jax.device_get(action)):
            self._write("episode", {"return": score, "length": length})
            progress.recent.append(score)

    def _save_between_steps(self) -> None:
        """Writes a checkpoint without another step.

        The arrivals of the last step are not in the ring, and are lost. The rows before them become the last of their
        episodes, since a resumed run has new environments. If a checkpoint was due, they are already: then the resumed
        run is the same as one that was not interrupted.
        """
        phase, run = self._phase, self._state
        if not (self._envs.untouched or self._progress.env_steps >= self._config.total_steps):
            end_episodes = jax.jit(replay.end_episodes, static_argnums=0, donate_argnums=1)
            run.ring = end_episodes(phase.ring_spec, run.ring)
            self._progress.pool += 1
        with self._untimed():
            self._save()

    def _compile(self) -> None:
        """Compiles the programs of the phase that begins."""
        with status.activity(f"compiling the programs of the {self._phase.name} phase"):
            self._programs = self._phase.compile()
        per_step = self._programs.cost_per_step
        self._progress.costs[self._phase.name] = {
            "flops_per_step": per_step.flops,
            "macs_per_step": per_step.macs,
            "replay_bytes": self._state.ring.num_bytes,
            "replay_capacity": self._phase.ring_spec.capacity,
        }

    def _freeze(self, stop: Callable[[], bool]) -> None:
        self._check_run_dir()
        run, progress, parts = self._state, self._progress, self._parts
        began, rows_before = progress.clock.elapsed, progress.rows
        run.train, run.ring = handover.freeze(
            parts.full,
            parts.frozen,
            run.train,
            run.ring,
            snapshot_dir=self._run_dir / checkpoint.DIRECTORY / SNAPSHOT_DIRECTORY,
            key=self._k_freeze,
            memory_bytes=needs.device_memory(),
            warn=self._warn_of_failed_write,
            stop=stop,
        )
        jax.block_until_ready(run.ring)
        seconds = progress.clock.elapsed - began
        obs = jax.ShapeDtypeStruct((1, *run.actor.stack.shape[1:]), np.uint8)
        encode = functools.partial(base.latents_to_store, parts.agent)
        progress.ledger.add({"handover": flops.cost_of(encode, run.train.params, obs, self._k_freeze) * rows_before})
        self._phase, progress.phase = parts.frozen, FROZEN
        self._compile()
        before = progress.costs[FULL]
        self._write(
            "freeze",
            {
                "rows_moved": rows_before,
                "handover_seconds": seconds,
                "replay_bytes_before": before["replay_bytes"],
                "replay_capacity_before": before["replay_capacity"],
            },
        )

    def _evaluate(self, stop: Callable[[], bool]) -> None:
        config, progress = self._config, self._progress
        key = jax.random.fold_in(self._k_eval, progress.env_steps)
        params, env_steps = self._state.train.params, progress.env_steps
        played = evaluation.play_new(config, self._eval_act, params, key, env_steps=env_steps, stop=stop)
        fields, reason = evaluation.summary(config, played)
        if reason and not progress.evals:
            self._warn(reason)
        progress.evals = [*progress.evals[:1], self._write("eval", fields)]
        if config.keep_best:
            best.keep_if_better(self._run_dir, progress, self._state.train, self._warn_of_failed_write)

    def _raise_if_not_finite(self) -> None:
        if self._config.on_nan == "ignore" or _all_finite((self._state.train.params, self._progress.info)):
            return
        good = checkpoint.newest(self._run_dir / checkpoint.DIRECTORY, self._warn, state_only=True)
        raise NonFiniteError(
            f"a loss or a parameter is not finite after {self._progress.env_steps:,} agent steps; the last good"
            f" checkpoint is {good.directory if good else 'none'}; lower agent.learning_rate, or go on with"
            " on_nan=ignore"
        )

    def _log(self) -> None:
        self._raise_if_not_finite()
        self._book_time()
        progress = self._progress
        rate = progress.clock.steps_per_second(progress.phase)
        info = {name: float(value) for name, value in progress.info.items()}
        recent = float(np.mean(progress.recent)) if progress.recent else None
        self._write("train", info | {"steps_per_second": rate, "return_mean": recent} | progress.ledger.by_kind())

    def _keep_params(self) -> None:
        """Keeps a copy of the parameters for later analysis; the run itself does not need it."""
        env_steps, directory = self._progress.env_steps, self._run_dir / PARAMS_DIRECTORY
        self._check_run_dir()
        try:
            directory.mkdir(exist_ok=True)
            files.save_tree(directory / f"{env_steps:09d}", {"params": self._state.train.params})
        except OSError as error:
            self._warn_of_failed_write(f"no copy of the parameters after {env_steps:,} steps ({error.strerror})")

    def _save(self, *, last: bool = False) -> None:
        """Writes a checkpoint; earlier ones stay until it is complete.

        Args:
          last: whether no later checkpoint follows.

        Raises:
          CheckpointSaveError: the last one failed, or holds the training state alone.
          NonFiniteError: there is nothing good to save.
        """
        self._raise_if_not_finite()
        self._check_run_dir()
        try:
            with status.activity(f"writing the checkpoint after {self._progress.env_steps:,} steps"):
                state.save(self._state, self._parts, self._run_dir, metrics_bytes=self._metrics.sync())
        except OSError as error:
            message = self._describe_failure(error)
            if last:
                raise CheckpointSaveError(message) from None
            self._warn_of_failed_write(message)
            return
        self._write("checkpoint", {})
        best.remove_unused(self._run_dir, self._progress)

    def _describe_failure(self, error: OSError) -> str:
        """Returns the line about a checkpoint that could not be written: what there is instead, and what to do."""
        message = f"no checkpoint after {self._progress.env_steps:,} steps ({error.strerror})"
        if isinstance(error, checkpoint.StateOnlyError):
            message += "; the training state alone is saved, for evaluate and seer.init_from"
            if not checkpoint.numbered(self._run_dir / checkpoint.DIRECTORY):
                return f"{message}; there is no earlier checkpoint to resume from"
        return f"{message}; earlier ones are intact; continue with --run_dir={shlex.quote(str(self._run_dir))} --resume"

    def _warn_of_failed_write(self, message: str) -> None:
        self._check_run_dir()  # without the directory no write succeeds, and the run ends
        self._warn(message)

    def _end(self) -> Record:
        progress = self._progress
        kept = ("eval_return_mean", "eval_return_std", "eval_length_mean", "human_normalized")
        summary: dict[str, Any] = {name: progress.evals[-1][name] for name in kept}
        for phase, cost in progress.costs.items():
            rate = {f"{phase}_steps_per_second": progress.clock.steps_per_second(phase)}
            summary |= rate | {f"{phase}_{name}": value for name, value in cost.items()}
        checksum = {"params_sha256": checkpoint.params_sha256(self._state.train.params)}
        record = self._write("end", summary | progress.ledger.by_kind() | checksum)
        self._display.end(record, progress.evals, list(progress.costs))
        return record

    def _write(self, kind: str, fields: Record) -> Record:
        self._check_run_dir()
        return self._records.write(kind, self._progress, fields)

    def close(self) -> None:
        """Closes files, display and environments."""
        self._display.close()
        self._metrics.close()
        self._envs.close()


def _crossed(every: int, before: int, after: int) -> bool:
    """Returns whether a multiple of `every` lies in (before, after]; 0 has none."""
    return every > 0 and after // every > before // every


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()
