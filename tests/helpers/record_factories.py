"""Makes the records and directories of runs that were never trained."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.records import Manifest, Origin, RunRecords
from seer_jax.run.records import Record

MANIFEST: Manifest = {
    "packages": {"jax": "1.2.3"},
    "git_commit": "abc",
    "devices": ["cpu:0"],
    "seed": 0,
    "protocol": "seer",
}


def make_config(task: str = "krull", seed: int = 0) -> dict[str, Any]:
    """Returns the fields of a configuration that a report reads."""
    return {"agent": {"name": "rainbow"}, "env": {"task": task}, "seed": seed, "seer": {"enabled": True}}


def make_line(kind: str, env_steps: int, score: float | None, **fields: Any) -> Record:
    """Returns a line of `metrics.jsonl` with an evaluation's score; `fields` are added to it or replace others."""
    return {
        "kind": kind,
        "env_steps": env_steps,
        "frames": 4 * env_steps,
        "macs_total": 1e6 * env_steps,
        "flops_total": 3e6 * env_steps,
        "seconds": env_steps / 10,
        "replay_bytes": 1000,
        "replay_size": 50,
        "replay_capacity": 100,
        "phase": "full",
        "eval_return_mean": score,
        **fields,
    }


def make_records(
    arm: str,
    score_by_step: Mapping[int, float | None],
    *,
    task: str = "krull",
    seed: int = 0,
    freeze: int | None = None,
) -> RunRecords:
    """Returns the records of a finished run.

    Args:
      arm: label of the run.
      score_by_step: score of each evaluation, by agent step.
      task: of the run.
      seed: of the run.
      freeze: agent step of its freeze; None for a run without one.
    """
    lines = [make_line("eval", steps, score) for steps, score in score_by_step.items()]
    if freeze is not None:
        lines.append(make_line("freeze", freeze, None))
    last = max(score_by_step)
    lines.append(make_line("end", last, score_by_step[last], full_steps_per_second=10.0, full_replay_capacity=7))
    return RunRecords(f"{task}-{arm}-s{seed}", arm, make_config(task, seed), MANIFEST, lines)


def make_fork(trunk: RunRecords, env_steps: int, arm: str, score_by_step: Mapping[int, float | None]) -> RunRecords:
    """Returns the records of a finished fork.

    Args:
      trunk: the run that it is a fork of.
      env_steps: agent steps that it shares with the trunk.
      arm: label of the fork.
      score_by_step: score of each of its own evaluations, by agent step.
    """
    own = make_records(arm, score_by_step, task=trunk.task, seed=trunk.seed)
    shared = [line for line in trunk.lines if line["env_steps"] <= env_steps and line["kind"] != "end"]
    return dataclasses.replace(
        own, lines=[*shared, *own.lines], manifest={**MANIFEST, "fork": make_origin(trunk.name, env_steps)}
    )


def make_origin(trunk: str, env_steps: int) -> Origin:
    """Returns what the manifest of a fork says of its trunk; `trunk` is its path there, and its name in records."""
    return {"trunk": trunk, "env_steps": env_steps, "checkpoint": "000002", "sha256": "0123"}


def write_run_dir(
    directory: pathlib.Path,
    lines: Sequence[Record],
    config: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] = MANIFEST,
) -> None:
    """Writes a run directory with these lines of `metrics.jsonl`."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config or make_config()))
    (directory / "manifest.json").write_text(json.dumps(manifest))
    (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
