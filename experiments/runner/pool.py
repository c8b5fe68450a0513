"""Trains many runs, each in a process of its own, with one of two backends.

A process is `python -m seer_jax.train --resume`, so an interrupted run is resumed. A run that fails does not stop the
others.
"""

import contextlib
import graphlib
import pathlib
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence

from absl import flags

from experiments.report import records
from experiments.runner import local_backend, ray_backend
from experiments.runner.display import PoolDisplay
from experiments.runner.process import Outcome
from experiments.runner.spec import Run
from seer_jax.fields import ConfigError
from seer_jax.run import run_dir

_BACKENDS = {"local": local_backend, "ray": ray_backend}


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of a command that trains runs: `--workers` and `--backend`."""
    flags.DEFINE_integer(
        "workers", None, "Runs at a time; as many as cores and memory allow unless given.", 1, 1000, flag_values=values
    )
    flags.DEFINE_enum(
        "backend",
        "local",
        list(_BACKENDS),
        "Processes on this machine, or tasks of a Ray cluster (RAY_ADDRESS).",
        flag_values=values,
    )


def train_all(
    runs: Sequence[Run], out: pathlib.Path, *, workers: int | None = None, backend: str = "local"
) -> dict[str, Outcome]:
    """Trains the runs that are not finished yet, trunks and sources of encoders first; returns how each ended, by name.

    Args:
      runs: with different names; those that others need are among them.
      out: directory that gets `runs/NAME`, and `runs/NAME.log` with the output of each run.
      workers: runs at a time; None takes as many as cores and memory allow.
      backend: `local` or `ray`.

    Raises:
      ConfigError: `out` cannot be written, or holds a finished run of the same name with another configuration.
    """
    try:
        (out / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out={out} cannot be written: {error.strerror}; name another directory") from None
    outcomes: dict[str, Outcome] = {}
    with PoolDisplay(runs, out) as display:
        finished = set()
        for run in runs:
            finished |= {run.name} if is_finished(run, out) else set()
            display.add(run)
        for stage in _stages(runs):
            for run in stage:
                if (outcome := _known_outcome(run, finished, outcomes)) is not None:
                    outcomes[run.name] = outcome
            display.show([], outcomes)
            unfinished = [run for run in stage if run.name not in outcomes]
            if unfinished:
                outcomes |= _BACKENDS[backend].train(unfinished, out, workers, display)
        display.show([], outcomes)
    return outcomes


def print_failures(outcomes: Mapping[str, Outcome]) -> int:
    """Prints the runs that failed; returns an exit code, 1 if there are any."""
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.code}
    for name, outcome in failed.items():
        print(f"{name} failed with exit code {outcome.code}: {outcome.message}", file=sys.stderr)
    return int(bool(failed))


def is_finished(run: Run, out: pathlib.Path) -> bool:
    """Returns whether the run has been trained to its end.

    Raises:
      ConfigError: the directory holds a finished run of this name with another configuration.
    """
    directory = out / "runs" / run.name
    with contextlib.suppress(records.RecordsError):
        if records.read(directory, run.arm).end is not None:
            run_dir.check_same(run.load(out.absolute() / "runs"), directory)
            return True
    return False


def _stages(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Yields the runs in groups; those that a run needs come in groups before its own."""
    by_name = {run.name: run for run in runs}
    sorter = graphlib.TopologicalSorter({run.name: run.needs for run in runs})
    sorter.prepare()
    while ready := sorter.get_ready():
        yield [by_name[name] for name in ready]
        sorter.done(*ready)


def _known_outcome(run: Run, finished: Collection[str], outcomes: Mapping[str, Outcome]) -> Outcome | None:
    """Returns the outcome of a run that is finished, or cannot start because another failed; None for others."""
    if run.name in finished:
        return Outcome(0)
    for name in run.needs:
        if code := outcomes[name].code:
            return Outcome(code, f"{name}, which it starts from, failed")
    return None
