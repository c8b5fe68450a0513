"""The directory of a run: made once, and read again by everything that needs the run later."""

import contextlib
import importlib.metadata
import itertools
import json
import pathlib
import subprocess
import time
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from seer_jax import files
from seer_jax.agents.registry import AGENTS
from seer_jax.config import RunConfig
from seer_jax.envs.registry import SUITES
from seer_jax.fields import ConfigError
from seer_jax.networks import haiku
from seer_jax.run import lock, resolve
from seer_jax.run.records import Record

CONFIG_FILE, MANIFEST_FILE, METRICS_FILE = "config.json", "manifest.json", "metrics.jsonl"
START_FILES = tuple(f"{name}{suffix}" for name in (CONFIG_FILE, MANIFEST_FILE) for suffix in ("", files.PARTIAL))
_PARENT = pathlib.Path("runs")  # of directories that no user named
Differences = dict[str, list[Any]]  # value there, in the directory, and value here, by dotted name
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "rlax", "envpool", "numpy")


def locate(run_dir: str | pathlib.Path) -> pathlib.Path:
    """Returns the absolute path of a directory, which a later change of the working directory does not change.

    Raises:
      ConfigError: the name is empty, messages that hold it would not be one line, or there is no working directory.
    """
    if not str(run_dir):
        raise ConfigError("run_dir is empty; name a directory")
    if not str(run_dir).isprintable():
        raise ConfigError(f"run_dir={str(run_dir)!r} holds a character that cannot be printed; name another")
    try:
        return pathlib.Path(run_dir).absolute()
    except OSError as error:
        raise ConfigError(
            f"run_dir={run_dir} is relative to a working directory that is gone: {error.strerror}"
        ) from None


@contextlib.contextmanager
def new(config: RunConfig) -> Iterator[pathlib.Path]:
    """Makes an empty directory for a run, named by task, algorithm, seed and time, that no other process gets.

    On leaving, it is removed if it is still empty.

    Raises:
      ConfigError: it cannot be made.
    """
    task, moment = config.env.task.replace("/", "_"), time.strftime("%Y%m%d-%H%M%S")
    name = f"{task}-{config.agent.name}-s{config.seed}-{moment}"
    for number in itertools.count(1):
        run_dir = _PARENT / (name if number == 1 else f"{name}-{number}")
        try:
            made = lock.make(run_dir, exist_ok=False)
            break
        except OSError as error:
            if not isinstance(error, FileExistsError) or not _PARENT.is_dir():
                raise lock.unwritable(run_dir, error) from None
    try:
        yield run_dir
    finally:
        lock.remove_empty(made)


def check_empty(run_dir: pathlib.Path, apart_from: Collection[str] = ()) -> None:
    """Raises ConfigError if a directory holds anything apart from its lock and what has one of these names."""
    try:
        if all(path.name in (lock.LOCK_FILE, *apart_from) for path in run_dir.iterdir()):
            return
    except OSError as error:
        raise lock.unwritable(run_dir, error) from None
    raise ConfigError(
        f"run_dir={run_dir} already exists; name a new directory, or go on with the run in it with --resume"
    )


def start(
    config: RunConfig,
    run_dir: pathlib.Path,
    arguments: Sequence[str],
    *,
    origin: Mapping[str, Any] = types.MappingProxyType({}),
    fill: Callable[[pathlib.Path], None] = lambda run_dir: None,
) -> None:
    """Writes the configuration and the manifest.

    Args:
      config: the configuration.
      run_dir: the directory.
      arguments: arguments of the command line that gave the configuration, if there was one.
      origin: what the manifest says, too.
      fill: called with the directory in between, to put into it what the run begins with.

    Raises:
      ConfigError: it cannot be used; nothing in it was changed.
    """
    try:
        files.write_file(run_dir / MANIFEST_FILE, as_json({**_manifest(config, arguments), **origin}))
        fill(run_dir)
        # Written last: with this file the directory is that of a run.
        files.write_file(run_dir / CONFIG_FILE, as_json(config.to_dict()))
    except OSError as error:
        with contextlib.suppress(OSError):
            clear_unstarted(run_dir)
        raise lock.unwritable(run_dir, error) from None


def is_started(run_dir: pathlib.Path) -> bool:
    """Returns whether the directory holds a run."""
    return (run_dir / CONFIG_FILE).is_file()


def clear_unstarted(run_dir: pathlib.Path) -> None:
    """Removes the files of a `start` that was interrupted, and nothing else."""
    for name in START_FILES:
        if name != CONFIG_FILE:
            (run_dir / name).unlink(missing_ok=True)


def clear_start(run_dir: pathlib.Path) -> None:
    """Removes the files of a `start`, also of a complete one, and nothing else."""
    for name in START_FILES:
        (run_dir / name).unlink(missing_ok=True)


def read_config(run_dir: pathlib.Path) -> ConfigDict:
    """Returns the configuration of a run, unresolved, in the meaning of the version that trained it.

    Raises:
      ConfigError: there is none that can be read.
    """
    try:
        return resolve.stored_config(json.loads((run_dir / CONFIG_FILE).read_text()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"run_dir={run_dir} holds no {CONFIG_FILE} that can be read ({error})") from None


def read_manifest(run_dir: pathlib.Path) -> dict[str, Any]:
    """Returns the manifest of a run; raises OSError or ValueError if there is none that can be read."""
    return json.loads((run_dir / MANIFEST_FILE).read_text())


def record_stopped_seed(run_dir: pathlib.Path, seed: int, env_steps: int) -> None:
    """Writes into the manifest of a run of several seeds that one stopped for good after `env_steps` agent steps."""
    manifest = read_manifest(run_dir)
    stopped = manifest.get("stopped_seeds", {}) | {str(seed): env_steps}
    files.write_file(run_dir / MANIFEST_FILE, as_json(manifest | {"stopped_seeds": stopped}))


def stopped_seeds(run_dir: pathlib.Path) -> list[int]:
    """Returns the seeds of a run of several seeds that have stopped for good."""
    try:
        return [int(seed) for seed in read_manifest(run_dir).get("stopped_seeds", {})]
    except (OSError, ValueError, TypeError, AttributeError):
        return []


def read_records(path: pathlib.Path) -> list[Record]:
    """Returns the records of a file like `metrics.jsonl`; a last line that is still being written is left out.

    Raises:
      OSError: the file cannot be read.
      ValueError: a line is not a record; the message names it.
    """
    records, lines = [], path.read_text().rstrip("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and "kind" in record:
            records.append(record)
        elif number < len(lines) or line.endswith("}"):
            raise ValueError(f"line {number} of {path.name} is not a record")
    return records


def foreign_code(config: ConfigDict, trusted: ConfigDict | None) -> str | None:
    """Returns the field by which a run imports code that is not part of this package and that its user did not name.

    A directory alone is not trusted to name code to import.

    Args:
      config: configuration of the run, as its directory has it.
      trusted: configuration that the user's `--config` gave, whose file has registered its agents and suites by now;
        None without it.

    Returns:
      `FIELD=VALUE`, or None if there is no such field.
    """
    named = {
        name: value for name, value in resolve.flat(resolve.plain_values(config)).items() if isinstance(value, str)
    }
    encoder = named.get("encoder.name", "")
    foreign = encoder.startswith(haiku.PREFIX) and not haiku.is_shipped(encoder)
    if foreign and (trusted is None or trusted.to_dict()["encoder"]["name"] != encoder):
        return f"encoder.name={encoder}"
    for field, known in (("agent.name", AGENTS), ("env.suite", SUITES)):
        if trusted is None and field in named and named[field] not in known:
            return f"{field}={named[field]}"
    return None


def differences(config: RunConfig, run_dir: pathlib.Path) -> Differences:
    """Returns the fields in which a configuration differs from that of the run in a directory.

    A field that the directory does not name was added by a later version, and has its default there. One whose default
    follows from other fields does not differ for itself. Without SEER the time of the freeze is no difference.
    """
    here = resolve.in_effect(resolve.plain_values(ConfigDict(config.to_dict())))
    default_config = resolve.default_config(suite=config.env.suite, agent=config.agent.name)
    defaults = resolve.flat(resolve.plain_values(default_config))
    follow = {name: here[name] for name, value in defaults.items() if value is None and name in here}
    stored = resolve.flat(resolve.plain_values(read_config(run_dir)))
    there = resolve.in_effect(traverse_util.unflatten_dict(defaults | follow | stored, sep="."))
    names = sorted(there.keys() | here.keys())
    return {name: [there.get(name), here.get(name)] for name in names if there.get(name) != here.get(name)}


def describe(differ: Differences) -> str:
    """Returns the first three differences in words."""
    return ", ".join(f"{name}={there} there and {here} here" for name, (there, here) in [*differ.items()][:3])


def check_same(config: RunConfig, run_dir: pathlib.Path) -> None:
    """Raises ConfigError unless the run in a directory has this configuration."""
    if differ := differences(config, run_dir):
        raise ConfigError(
            f"run_dir={run_dir} holds a run of another configuration ({describe(differ)}); name a new directory"
        )


def _manifest(config: RunConfig, arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the facts that a repetition of the run needs, apart from the configuration."""
    try:
        here = pathlib.Path(__file__).parent
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        commit = git.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "arguments": list(arguments),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "git_commit": commit,
        "devices": [str(device) for device in jax.devices()],
        "seed": config.seed,
        # Not every suite has protocols, or scales images.
        "protocol": getattr(config.env, "protocol", None),
        "resize": getattr(config.env, "resize", None),
        "first_stack": config.env.first_stack,
    }


def as_json(values: dict[str, Any]) -> bytes:
    """Returns the content of a file of the directory."""
    return f"{json.dumps(values, indent=2)}\n".encode()
