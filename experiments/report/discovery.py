"""Finds the runs that a report is asked to show among directories, files of records, and files that are no runs."""

import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

from experiments.report import records
from experiments.report.records import RecordsError, RunRecords
from seer_jax.run import group, run_dir

_KEPT_SUFFIX = ".jsonl"


def read_all(paths: Sequence[pathlib.Path]) -> dict[pathlib.Path, RunRecords]:
    """Returns the records of all runs at or below `paths`, by path, and prints a line for each that is left out.

    A directory that is not that of a run stands for the run directories below it or, if there are none, for the files
    of records in it. Damaged runs, and files that are no runs, are left out.

    Raises:
      RecordsError: a path does not exist, or no run is left.
    """
    found: dict[pathlib.Path, RunRecords] = {}
    once = {member.resolve(): member for path in paths for member in _members(path)}
    for path in once.values():
        try:
            found[path] = records.read(path)
        except RecordsError as error:
            print(f"report: skipped: {error}", file=sys.stderr)
    if not found:
        raise RecordsError("no run is left to show; name run directories, directories of runs, or files of records")
    return found


def _members(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the run directories and files that a path stands for."""
    if not path.exists():
        raise RecordsError(f"{path} is neither a run directory nor a file of records: it does not exist")
    if not path.is_dir():
        yield path
        return
    run_dirs = list(_run_dirs(path))
    members = run_dirs or sorted(path.glob(f"*{_KEPT_SUFFIX}"))
    if not members:
        print(f"report: skipped: {path} holds neither run directories nor files of records", file=sys.stderr)
    yield from members


def _run_dirs(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the run directories at or below a directory, in order of their names; of a run of several seeds theirs."""
    for directory, below, files in os.walk(path):
        if {run_dir.CONFIG_FILE, run_dir.METRICS_FILE} & set(files) and not group.seeds_in(pathlib.Path(directory)):
            below.clear()
            yield pathlib.Path(directory)
        below.sort()
