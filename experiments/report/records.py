"""The records of a run: reads a run directory, and writes and reads the file that is kept when it is deleted.

A kept file holds one JSON object per line. The first has the kind `run` and holds name, arm, configuration and
manifest; the others are lines of `metrics.jsonl`.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from experiments.report import names
from seer_jax.run import resolve, run_dir
from seer_jax.run.records import Record

Kind = Literal["train", "episode", "eval", "freeze", "reset", "signal", "checkpoint", "end"]
_KEPT_KINDS = ("train", "eval", "freeze", "reset", "signal", "end")  # episodes and checkpoints are too many
_AGENT_LABELS = {"rainbow": "Rainbow", "curl_sac": "CURL"}
# Fields that a report reads of every evaluation and freeze, of a signal, and of a manifest.
_LINE_FIELDS = (
    "env_steps",
    "frames",
    "macs_total",
    "flops_total",
    "seconds",
    "replay_bytes",
    "replay_size",
    "replay_capacity",
)
_SIGNAL_FIELDS = ("env_steps", "drift_untrained", "measure_seconds")
_MANIFEST_FIELDS = ("packages", "git_commit", "devices")


class RecordsError(ValueError):
    """The records of a run are missing, unreadable or contradict each other; the message says which."""


class Origin(TypedDict):
    """What `manifest.json` of a fork says of its trunk.

    Attributes:
      trunk: name of its run, in place of the path that the file has.
      env_steps: agent steps that the fork shares with it.
      checkpoint: name of the checkpoint that the fork began with.
      sha256: checksum of this checkpoint.
    """

    trunk: str
    env_steps: int
    checkpoint: str
    sha256: str


class Fork(NamedTuple):
    """Where a fork left its trunk, the run that it began with.

    Attributes:
      trunk: name of the trunk.
      env_steps: agent steps that the fork shares with it.
    """

    trunk: str
    env_steps: int


class Manifest(TypedDict):
    """What `manifest.json` holds.

    Attributes:
      packages: version by name of the package.
      git_commit: of this code; None if it is not in a git repository.
      devices: names, as JAX prints them.
      seed: of the run.
      protocol: of its environments, if they have one.
      resize: interpolation by which its environments scale images, if they do; earlier versions lack it.
      first_stack: frames before the first of an episode; earlier versions lack it.
      arguments: of the command that trained the run; empty for a run that Python code started.
      fork: the origin of a fork; other runs lack it.
    """

    packages: dict[str, str]
    git_commit: str | None
    devices: list[str]
    seed: int
    protocol: str | None
    resize: NotRequired[str | None]
    first_stack: NotRequired[str]
    arguments: NotRequired[list[str]]
    fork: NotRequired[Origin]


@dataclasses.dataclass(frozen=True)
class RunRecords:
    """The records of one run.

    Attributes:
      name: of the run.
      arm: label under which it is compared with other runs.
      config: resolved configuration, as nested dictionaries, under the names that fields have today.
      manifest: versions and devices.
      lines: of `metrics.jsonl`, in order; those of a fork begin with the lines of its trunk.
    """

    name: str
    arm: str
    config: dict[str, Any]
    manifest: Manifest
    lines: list[Record]

    @property
    def task(self) -> str:
        return self.config["env"]["task"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def end(self) -> Record | None:
        """The last line of kind `end`; None if the run has not finished."""
        ends = self.of_kind("end")
        return ends[-1] if ends else None

    @property
    def fork(self) -> Fork | None:
        """Where the run left its trunk; None if it is no fork."""
        origin = self.manifest.get("fork")
        return Fork(origin["trunk"], origin["env_steps"]) if origin else None

    def of_kind(self, kind: Kind) -> list[Record]:
        return [line for line in self.lines if line["kind"] == kind]

    def save(self, path: pathlib.Path) -> None:
        """Writes a kept file, which `read` reads."""
        head = {"kind": "run", "name": self.name, "arm": self.arm, "config": self.config, "manifest": self.manifest}
        kept = [head, *(line for line in self.lines if line["kind"] in _KEPT_KINDS)]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(line)}\n" for line in kept))


def read(path: pathlib.Path, arm: str | None = None) -> RunRecords:
    """Reads a run directory, of a finished or unfinished run, or a kept file.

    Where its configuration and manifest hold paths, as those of a trunk, the records have names of runs.

    Args:
      path: of the directory or the file.
      arm: label of the run; None takes the label from the file, or makes one from the configuration in a directory.

    Raises:
      RecordsError: `path` is neither, or a file in the directory is damaged.
    """
    try:
        if path.is_dir():
            base = names.runs_dir(path)
            config = names.without_paths(resolve.plain_values(run_dir.read_config(path)), base)
            manifest = names.without_paths(run_dir.read_manifest(path), base)
            lines = run_dir.read_records(path / run_dir.METRICS_FILE)
            run = RunRecords(names.name(path), arm or _default_arm(config), config, manifest, lines)
        else:
            head, *lines = run_dir.read_records(path) or [{}]
            config = resolve.plain_values(resolve.stored_config(head["config"]))
            run = RunRecords(head["name"], arm or head["arm"], config, head["manifest"], lines)
        _check_fields(run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else error
        what = "is a damaged run" if path.is_dir() else "is neither a run directory nor a file of records"
        raise RecordsError(f"{path} {what} ({reason})") from None
    return run


def _check_fields(run: RunRecords) -> None:
    """Raises KeyError or TypeError if the records lack a field that reports read."""
    _ = run.task, run.seed, [run.manifest[field] for field in _MANIFEST_FIELDS]
    if "fork" in run.manifest:
        origin = run.manifest["fork"]
        if not isinstance(origin["trunk"], str) or not isinstance(origin["env_steps"], int):
            raise TypeError(f"its fork is {origin}, without the name of a trunk and a number of agent steps")
    for line in (*run.of_kind("eval"), *run.of_kind("freeze")):
        _ = [line[field] for field in _LINE_FIELDS]
    for line in run.of_kind("signal"):
        _ = [line[field] for field in _SIGNAL_FIELDS]


def trunk_of(run: RunRecords, runs: Sequence[RunRecords]) -> RunRecords | None:
    """Returns the run among `runs` that `run` is a fork of; None if it is no fork, or its trunk is not among them.

    Runs in different directories may have the same name: a trunk has that name, its evaluations up to the fork are
    those that the run begins with, and it is itself no fork, or left its own trunk earlier.
    """
    if run.fork is None:
        return None
    name, env_steps = run.fork
    for other in runs:
        earlier = other.fork is None or other.fork.env_steps < env_steps
        shared = _scores_until(env_steps, other)
        # At the fork, a run with another cadence of evaluations may have one more.
        if other.name == name and earlier and shared == _scores_until(env_steps, run)[: len(shared)]:
            return other
    return None


def num_shared_evaluations(run: RunRecords, trunk: RunRecords | None) -> int:
    """Returns how many of the evaluations of a fork are those of its trunk; 0 without one."""
    return len(_scores_until(run.fork.env_steps, trunk)) if run.fork and trunk else 0


def _scores_until(env_steps: int, run: RunRecords) -> list[tuple[int, float | None]]:
    evaluations = [line for line in run.of_kind("eval") if line["env_steps"] <= env_steps]
    return [(line["env_steps"], line["eval_return_mean"]) for line in evaluations]


def origin_of(run: RunRecords, runs: Sequence[RunRecords]) -> str:
    """Returns the name of the run that a run began as: its own, its trunk's, or that of the trunk's trunk and so on.

    Trunks are followed as far as they are among `runs`.
    """
    while trunk := trunk_of(run, runs):
        run = trunk
    return run.name if run.fork is None else run.fork.trunk


def differing_fields(runs: Sequence[RunRecords]) -> list[tuple[str, list[Any]]]:
    """Returns the dotted name of each configuration field in which the runs differ, with the value of each run."""
    flat = [resolve.in_effect(run.config) for run in runs]
    names = dict.fromkeys(name for fields in flat for name in fields)
    values = {name: [fields.get(name) for fields in flat] for name in names}
    return [(name, row) for name, row in values.items() if any(value != row[0] for value in row)]


def _default_arm(config: dict[str, Any]) -> str:
    name: str = config["agent"]["name"]
    label = _AGENT_LABELS.get(name, name)
    return f"{label} + SEER" if config["seer"]["enabled"] else label
