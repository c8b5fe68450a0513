"""Forks: runs that begin with what another run, their trunk, had at one of its checkpoints.

A fork has the trunk's agent, ring, counters, cost, metrics and copies of parameters up to there, and other values for
what lies ahead. It is, bit for bit, the run that had these values from the start. Values on which something before the
fork could depend are refused.
"""

import contextlib
import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from seer_jax import fields, files
from seer_jax.config import RunConfig
from seer_jax.fields import ConfigError
from seer_jax.run import best, checkpoint, continuation, run_dir
from seer_jax.run.progress import steps_before
from seer_jax.run.seed import PARAMS_DIRECTORY, directories_of, is_forkable
from seer_jax.seer import capacity, pace
from seer_jax.seer.phases import FROZEN, FULL

# Fields that may differ between a fork and its trunk: what lies ahead of a checkpoint.
CHANGEABLE = (
    *continuation.CHANGEABLE,
    "replay_ratio",
    "seer.replay_ratio",
    "agent.reset_heads_every",
    "agent.reset_keep",
    "seer.reset_heads_every",
    "on_nan",
    "agent.learning_rate",
    "agent.temperature_learning_rate",
    "replay.capacity",
    "replay.grow_after_freeze",
    "replay.allow_more_memory",
)
# Fields that may differ, too, if the encoder of the trunk was not frozen at the checkpoint.
CHANGEABLE_BEFORE_FREEZE = (
    "seer.enabled",
    "seer.freeze_step",
    "seer.freeze_after",
    "seer.freeze_before",
    "seer.num_copies",
    "seer.sync_target_heads",
    "replay.latent_dtype",
)

_ORIGIN = "fork"  # what the manifest says of the trunk
_METRICS = (run_dir.METRICS_FILE, f"{run_dir.METRICS_FILE}{files.PARTIAL}")
_DIRECTORIES = (checkpoint.DIRECTORY, PARAMS_DIRECTORY, best.DIRECTORY)
FILES = (*_DIRECTORIES, *_METRICS)  # that a fork begins with


def parse(source: str) -> tuple[pathlib.Path, int | None]:
    """Returns the directory and the agent steps of `RUN_DIR[@STEP]`; None stands for the newest checkpoint.

    Raises:
      ConfigError: it has another form.
    """
    if "@" not in source or os.path.isdir(source):
        return run_dir.locate(source), None
    directory, _, step = source.rpartition("@")
    digits = step.replace(",", "")
    if not directory or not digits.isdecimal() or len(digits) > len(str(fields.MANY)):
        raise ConfigError(f"--fork={source} is not RUN_DIR or RUN_DIR@STEP, with STEP in agent steps")
    return run_dir.locate(directory), int(digits)


def find(config: RunConfig, source: str, warn: Callable[[str], None]) -> list[checkpoint.Checkpoint]:
    """Returns the checkpoint of each seed of a trunk, with the progress that the fork begins with.

    Args:
      config: configuration of the fork.
      source: `RUN_DIR[@STEP]`.
      warn: receives one line about each newer checkpoint that cannot be used, and one about what differs.

    Raises:
      ConfigError: there is no such checkpoint, or the fork differs in something that lies behind it.
      CheckpointError: the checkpoint is damaged.
    """
    trunk, step = parse(source)
    if not run_dir.is_started(trunk):
        raise ConfigError(f"--fork={source}: {trunk} is not the directory of a run; name one that train made")
    differ = run_dir.differences(config, trunk)
    _check_fields(differ, source, (*CHANGEABLE, *CHANGEABLE_BEFORE_FREEZE))
    if config.num_seeds > 1 and (stopped := run_dir.stopped_seeds(trunk)):
        raise ConfigError(
            f"--fork={source}: its seed {stopped[0]} has stopped; fork the others one by one, as RUN_DIR/seed-N"
        )
    saved = [_find(directory, step, config.num_envs, source, warn) for directory in directories_of(config, trunk)]
    if len({each.directory.name for each in saved}) > 1:
        raise ConfigError(
            f"--fork={source}: its seeds have no such checkpoint in common; name the STEP of one that all have"
        )
    for each in saved:
        if each.progress["phase"] == FROZEN:
            _check_fields(differ, source, CHANGEABLE)
        _check_ahead(config, each.progress, source)
        _check_ring(config, each.progress, source)
    if differ:
        values = (f"{name}={here} (was {there})" for name, (there, here) in differ.items())
        warn(f"forks {trunk} after {saved[0].progress['env_steps']:,} steps with {', '.join(values)}")
    return [each._replace(progress=_progress(config, each.progress, differ)) for each in saved]


def _check_fields(differ: run_dir.Differences, source: str, changeable: Sequence[str]) -> None:
    fixed = {name: values for name, values in differ.items() if name not in changeable}
    if fixed:
        frozen = fixed.keys() <= set(CHANGEABLE_BEFORE_FREEZE)
        raise ConfigError(
            f"--fork={source} has another configuration ({run_dir.describe(fixed)}); a fork"
            f"{' of a frozen encoder' if frozen else ''} may differ in {', '.join(changeable)}"
        )


def _find(
    directory: pathlib.Path, step: int | None, num_envs: int, source: str, warn: Callable[[str], None]
) -> checkpoint.Checkpoint:
    """Returns the newest checkpoint of a run, or the one at an agent step, which a vector step may have passed."""
    checkpoints = directory / checkpoint.DIRECTORY
    if step is None:
        found = checkpoint.newest(checkpoints, warn)
        if found is None:
            raise ConfigError(f"--fork={source} has no checkpoint yet; let it reach one, or set its checkpoint_at")
        return found
    there = {number: checkpoint.steps(checkpoints, number) for number in checkpoint.numbers(checkpoints)}
    for number, env_steps in there.items():
        if env_steps is not None and step <= env_steps < step + num_envs:
            return checkpoint.read(checkpoints, number)
    damaged = [f"checkpoint {number} is damaged" for number, env_steps in there.items() if env_steps is None]
    steps = ", ".join(str(each) for each in there.values() if each is not None) or "no others"
    raise ConfigError(
        f"--fork={source}: {directory} has no checkpoint after {step} agent steps; there is one after each of {steps}"
        f" {', '.join(['steps', *damaged])}; name one of them, or keep others with checkpoint_at"
    )


def _check_ahead(config: RunConfig, progress: dict[str, Any], source: str) -> None:
    """Raises ConfigError if the end or the freeze would lie behind the checkpoint."""
    env_steps = progress["env_steps"]
    if config.total_steps <= env_steps:
        raise ConfigError(
            f"total_steps={config.total_steps} is not past the {env_steps} agent steps of --fork={source}; raise it"
        )
    before = steps_before(progress)
    if progress["phase"] == FULL and config.seer.enabled and config.full_steps <= before:
        raise ConfigError(
            f"seer.freeze_step={config.full_steps} is too early for --fork={source}, which was trained without a"
            f" freeze for {env_steps} agent steps; raise it to {max(env_steps, before + 1)}, or fork an earlier"
            " checkpoint"
        )


def _check_ring(config: RunConfig, progress: dict[str, Any], source: str) -> None:
    """Raises ConfigError if a ring of another size would hold other rows by now, or would have held others."""
    rows, sizes = progress["rows"], progress["costs"]
    new = {FULL: capacity.full_capacity, FROZEN: capacity.frozen_capacity}
    for phase in sizes:
        there = sizes[phase]["replay_capacity"]
        here = new[phase](config) // config.num_envs * config.num_envs
        if here != there and (rows >= there or rows > here):
            raise ConfigError(
                f"the {phase} phase has a ring of {here} rows, and that of --fork={source} has {there}: one of the two"
                " may already have overwritten rows; choose the values of the trunk in the section replay, or fork an"
                " earlier checkpoint"
            )


def _progress(config: RunConfig, progress: dict[str, Any], differ: run_dir.Differences) -> dict[str, Any]:
    """Returns the progress that a fork begins with.

    Updates and resets that another replay ratio or period would have made before are not due. Whether the checkpoint
    stays on the disk is decided by the `checkpoint_at` of the fork.
    """
    env_steps = progress["env_steps"]
    progress = progress | {"stays": is_forkable(config, steps_before(progress), env_steps)}
    full = progress["phase"] == FULL
    ratio = "replay_ratio" if full else "seer.replay_ratio"
    if ratio in differ and env_steps >= config.learn_start:
        since = progress.get("updates_since") or pace.since_start(config.learn_start)
        progress["updates_since"] = pace.since_now(pace.replay_ratio(differ[ratio][0]), since, env_steps)
    if ("agent.reset_heads_every" if full else "seer.reset_heads_every") in differ:
        progress["resets_since"] = progress["updates"]
    return progress


def start(config: RunConfig, directory: pathlib.Path, arguments: Sequence[str], saved: checkpoint.Checkpoint) -> None:
    """Does what `run_dir.start` does, and puts into the directory what the trunk had at a checkpoint.

    Args:
      config: configuration of the fork.
      directory: of the fork.
      arguments: arguments of the command line that gave the configuration, if there was one.
      saved: checkpoint of the trunk, with the progress that the fork begins with.

    Raises:
      ConfigError: the directory cannot be written, or the trunk cannot be read.
    """
    try:
        checksum = files.checksum(saved.directory / checkpoint.MANIFEST_FILE)
    except OSError as error:
        raise _unreadable(error) from None
    origin = {
        "trunk": str(saved.directory.parent.parent),
        "env_steps": saved.progress["env_steps"],
        "checkpoint": saved.directory.name,
        "sha256": checksum,
    }
    fill = functools.partial(_fill, saved)
    run_dir.start(config, directory, arguments, origin={_ORIGIN: origin}, fill=fill)


def _fill(saved: checkpoint.Checkpoint, directory: pathlib.Path) -> None:
    """Puts what a trunk had at a checkpoint into the directory of a fork; files that never change are linked.

    Raises:
      OSError: the directory cannot be written; nothing was left in it.
      ConfigError: the trunk cannot be read; nothing was left in the directory.
    """
    trunk, progress = saved.directory.parent.parent, saved.progress
    copies = (trunk / PARAMS_DIRECTORY).glob("[0-9]*")
    kept = [path for path in copies if path.name.isdecimal() and int(path.name) <= progress["env_steps"]]
    if progress["best"] is not None:
        kept.append(best.directory(trunk, progress["best"]))
    try:
        lines = (trunk / run_dir.METRICS_FILE).read_bytes()[: progress["metrics_bytes"]]
    except OSError as error:
        raise _unreadable(error) from None
    try:
        files.write_file(directory / run_dir.METRICS_FILE, lines)
        for path in kept:
            files.link_tree(path, directory / path.parent.name / path.name)
        checkpoint.link(saved, directory / checkpoint.DIRECTORY)
    except OSError as error:
        clear(directory)
        if isinstance(error, FileNotFoundError):
            raise _unreadable(error) from None
        raise


def _unreadable(error: OSError) -> ConfigError:
    return ConfigError(
        f"{error.filename} of the run to fork cannot be read: {error.strerror}; put it back, or fork another checkpoint"
    )


def check_origin(directory: pathlib.Path, source: str, num_envs: int) -> None:
    """Raises ConfigError unless the run in a directory is a fork of `RUN_DIR[@STEP]`."""
    trunk, step = parse(source)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        origin = run_dir.read_manifest(directory)[_ORIGIN]
        there, env_steps = pathlib.Path(origin["trunk"]), origin["env_steps"]
        if there in (trunk, trunk / directory.name) and (step is None or step <= env_steps < step + num_envs):
            return
    raise ConfigError(f"run_dir={directory} holds no fork of --fork={source}; resume it without --fork")


def is_interrupted(directory: pathlib.Path) -> bool:
    """Returns whether a directory that holds no run yet may hold what a fork begins with."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return _ORIGIN in run_dir.read_manifest(directory)
    return False


def clear(directory: pathlib.Path) -> None:
    """Removes what a fork that never began put into its directory, apart from the manifest."""
    (directory / run_dir.CONFIG_FILE).unlink(missing_ok=True)  # without it the rest is not taken for a run
    for name in _DIRECTORIES:
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in _METRICS:
        (directory / name).unlink(missing_ok=True)
