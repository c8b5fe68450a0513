"""Going on with the run in a directory: from which checkpoint, and with which values that differ from the run's own."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from seer_jax import files
from seer_jax.config import RunConfig
from seer_jax.fields import ConfigError
from seer_jax.run import checkpoint, resolve, run_dir

# Nothing that a run did before depends on these fields.
CHANGEABLE = (
    "total_steps",
    "log_every",
    "eval_every",
    "eval_episodes",
    "checkpoint_every",
    "checkpoint_at",
    "checkpoints_kept",
    "params_every",
    "seer.signal_every",
    "mesh.seed",
    "mesh.data",
)


def changes(config: RunConfig, directory: pathlib.Path) -> run_dir.Differences:
    """Returns the fields in which a configuration differs from that of the run in a directory.

    Raises:
      ConfigError: a field differs that is not one of `CHANGEABLE`.
    """
    differ = run_dir.differences(config, directory)
    if fixed := {name: values for name, values in differ.items() if name not in CHANGEABLE}:
        raise ConfigError(
            f"run_dir={directory} holds a run of another configuration ({run_dir.describe(fixed)}); a run that goes on"
            f" may change {', '.join(CHANGEABLE)}; resume without the other fields, or name a new directory"
        )
    return differ


def find_checkpoint(
    directory: pathlib.Path, changed: run_dir.Differences, warn: Callable[[str], None]
) -> checkpoint.Checkpoint | None:
    """Returns the checkpoint to go on from; None if the run never wrote any and starts anew.

    Args:
      directory: directory of the run.
      changed: from `changes`.
      warn: receives one line about each newer checkpoint that cannot be used, or about a new start.

    Raises:
      CheckpointError: there were checkpoints, and none of them can be used.
      ConfigError: the run has gone on past the new `total_steps`.
    """
    saved = checkpoint.newest(directory / checkpoint.DIRECTORY, warn)
    if saved is None:
        kinds = _recorded_kinds(directory / run_dir.METRICS_FILE)
        if "checkpoint" in kinds or "end" in kinds:
            raise checkpoint.CheckpointError(
                f"run_dir={directory} recorded checkpoints, and {checkpoint.DIRECTORY}/ holds none of them; put them"
                " back, or name a new directory"
            )
        warn(f"no checkpoint was written yet: the run starts anew, without the {len(kinds):,} lines of its metrics")
    else:
        check_total_steps(directory, saved, changed)
    return saved


def check_total_steps(directory: pathlib.Path, saved: checkpoint.Checkpoint, changed: run_dir.Differences) -> None:
    """Raises ConfigError if the run in a directory has gone on past its new `total_steps`."""
    if "total_steps" in changed and changed["total_steps"][1] <= saved.progress["env_steps"]:
        raise ConfigError(
            f"total_steps={changed['total_steps'][1]} is not past the {saved.progress['env_steps']} agent steps that"
            f" the run in {directory} has done; raise it"
        )


def record_changes(
    config: RunConfig,
    directory: pathlib.Path,
    changed: run_dir.Differences,
    *,
    env_steps: int,
    arguments: Sequence[str],
) -> None:
    """Makes a configuration that of the run in a directory, and adds the change to the `changes` of its manifest.

    Args:
      config: the configuration from now on.
      directory: directory of the run.
      changed: from `changes`; not empty.
      env_steps: agent steps at which it changes.
      arguments: arguments of the command line that gave it, if there was one.

    Raises:
      ConfigError: it cannot be written; the run goes on with its former configuration when it is resumed.
    """
    try:
        manifest = run_dir.read_manifest(directory)
        history: list[dict[str, Any]] = manifest.get("changes", [])
        if history and not _is_in_effect(history[-1], config, changed):
            history = history[:-1]  # an interruption came between the two files
        entry = {"env_steps": env_steps, "fields": changed, "arguments": list(arguments)}
        content = run_dir.as_json(manifest | {"changes": [*history, entry]})
        files.write_file(directory / run_dir.MANIFEST_FILE, content)
        files.write_file(directory / run_dir.CONFIG_FILE, run_dir.as_json(config.to_dict()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"its {run_dir.MANIFEST_FILE} is damaged"
        raise ConfigError(
            f"the new configuration of run_dir={directory} cannot be written: {reason}; resume it as it was"
        ) from None


def _is_in_effect(entry: dict[str, Any], config: RunConfig, changed: run_dir.Differences) -> bool:
    """Returns whether the directory's configuration, which `changed` is about to change, has the values of an entry."""
    there = resolve.flat(config.to_dict()) | {name: before for name, (before, _) in changed.items()}
    return all(there.get(name) == after for name, (_, after) in entry["fields"].items())


def _recorded_kinds(path: pathlib.Path) -> list[str]:
    """Returns the kind of each record of a file; of a damaged or missing one, of what can be read."""
    kinds = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            kinds.append(json.loads(line)["kind"])
    return kinds
