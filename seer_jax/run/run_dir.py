"""The directory of a run: begun once, and found again by whoever goes on with it."""

import importlib.metadata
import json
import pathlib
import subprocess
from collections.abc import Sequence
from typing import Any

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from seer_jax.agents.registry import AGENTS
from seer_jax.envs.registry import SUITES
from seer_jax.networks import haiku
from seer_jax.run import checkpoint
from seer_jax.run import resolve as config_lib

CONFIG_FILE = "config.json"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "rlax", "envpool", "numpy")


def start(config: ConfigDict, run_dir: pathlib.Path, arguments: Sequence[str]) -> None:
    """Makes the directory and writes what the run is.

    Args:
      config: a resolved configuration.
      run_dir: does not exist yet, or is empty.
      arguments: of the command line that gave the configuration, if one did.

    Raises:
      ConfigError: it cannot be used; nothing in it was changed.
    """
    try:
        if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise config_lib.ConfigError(
                f"run_dir={run_dir} already exists; name a new directory, or go on with the run in it with --resume"
            )
        run_dir.mkdir(parents=True, exist_ok=True)
        checkpoint.write_whole(run_dir / "manifest.json", _json(_manifest(config, arguments)))
        # Last: with it the directory is a run's.
        checkpoint.write_whole(run_dir / CONFIG_FILE, _json(config.to_dict()))
    except OSError as error:
        raise config_lib.ConfigError(f"run_dir={run_dir} cannot be written: {error.strerror}; name another") from None


def is_started(run_dir: pathlib.Path) -> bool:
    """Whether the directory holds a run."""
    return (run_dir / CONFIG_FILE).is_file()


def clear_unstarted(run_dir: pathlib.Path) -> None:
    """Removes what a `start` that was cut off left behind, and nothing else."""
    for name in ("manifest.json", "manifest.json.partial", f"{CONFIG_FILE}.partial"):
        (run_dir / name).unlink(missing_ok=True)


def read_config(run_dir: pathlib.Path) -> ConfigDict:
    """Returns the configuration of a run, unresolved.

    Raises:
      ConfigError: there is none that can be read.
    """
    try:
        return ConfigDict(json.loads((run_dir / CONFIG_FILE).read_text()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise config_lib.ConfigError(f"run_dir={run_dir} holds no {CONFIG_FILE} that can be read ({error})") from None


def code_of_others(config: ConfigDict, trusted: ConfigDict | None) -> str | None:
    """Returns what a run uses that is no part of this package and that its user did not name, if anything.

    A directory's own word is not enough to import code.

    Args:
      config: of the run, as its directory has it.
      trusted: what the user's `--config` gave, whose file has registered its agents and suites by now; None without it.
    """
    named = {name: value for name, value in _flat(config).items() if isinstance(value, str)}
    encoder = named.get("encoder.name", "")
    encoder_of_others = encoder.startswith(haiku.PREFIX) and not haiku.is_shipped(encoder)
    if encoder_of_others and (trusted is None or trusted.encoder.name != encoder):
        return f"encoder.name={encoder}"
    for field, known in (("agent.name", AGENTS), ("env.suite", SUITES)):
        if trusted is None and field in named and named[field] not in known:
            return f"{field}={named[field]}"
    return None


def check_same(config: ConfigDict, run_dir: pathlib.Path) -> None:
    """Raises ConfigError unless the run has this resolved configuration."""
    there, here = (_flat(c) for c in (read_config(run_dir), config))
    differ = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    if differ:
        told = ", ".join(f"{name}={there.get(name)} there and {here.get(name)} here" for name in differ[:3])
        raise config_lib.ConfigError(
            f"run_dir={run_dir} holds a run of another configuration ({told}); resume without --config, or name a new"
            " directory"
        )


def _manifest(config: ConfigDict, arguments: Sequence[str]) -> dict:
    """What a reader needs to know to run this again, apart from the configuration."""
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
        "protocol": config.env.protocol if "protocol" in config.env else None,
    }


def _json(values: dict) -> bytes:
    return f"{json.dumps(values, indent=2)}\n".encode()


def _flat(config: ConfigDict) -> dict[str, Any]:
    """Returns fields by dotted name, tuples as JSON has them."""
    return traverse_util.flatten_dict(json.loads(json.dumps(config.to_dict())), sep=".")
