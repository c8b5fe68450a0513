"""Compares training runs on one page.

python -m experiments.report RUN_DIRS... [--out=report.html] [--title=TEXT] [--x=macs_total] [--budget=15e12]

RUN_DIRS are run directories, of finished or unfinished runs, directories that hold run directories, as a sweep makes,
or files of records as in experiments/results/runs/. Damaged runs, and files that are no runs, are skipped with a line
each. The page report.html needs no network. Beside it are report.png and report.csv with the curves and report.md with
the tables.
"""

import dataclasses
import math
import pathlib
import shlex
import sys
from collections.abc import Sequence

from absl import flags
from matplotlib.ticker import EngFormatter

from experiments.report import curves, discovery, page, records
from experiments.report.content import Comparison
from experiments.report.records import RunRecords
from seer_jax import cli

# Runs that differ only in these fields belong to the same arm.
_IGNORED_FIELDS = (
    "seed",
    "total_steps",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "checkpoint_at",
    "params_every",
    "mesh.seed",
    "mesh.data",
    "seer.signal_every",
)


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    values = cli.make_flags()
    flags.DEFINE_string("out", "report.html", "The page to write.", flag_values=values)
    flags.DEFINE_string("title", "Training runs", "Title of the page.", flag_values=values)
    flags.DEFINE_enum("x", "macs_total", list(curves.AXES), "First x axis of the curves.", flag_values=values)
    flags.DEFINE_float(
        "budget", None, "Value of x at which to compare scores, not at the end.", 0.0, flag_values=values
    )
    return cli.main(argv, __doc__, values, _report, (records.RecordsError,), takes_operands=True)


def _report(values: flags.FlagValues, *paths: str) -> None:
    if not paths:
        raise cli.UsageError("RUN_DIRS are missing: run directories, or files of records")
    out = pathlib.Path(values.out)
    if out.is_dir():
        raise cli.UsageError(f"--out={out} is a directory; name a file, for example {out / 'report.html'}")
    if values.budget is not None and not math.isfinite(values.budget):
        raise cli.UsageError(f"--budget={values.budget} is not a finite number")
    runs = discovery.read_all([pathlib.Path(path) for path in paths])
    try:
        page.write(
            out,
            label_arms([*runs.values()]),
            title=values.title,
            command=f"python -m experiments.report {shlex.join(paths)}",
            x=values.x,
            comparisons=[_comparison(values.x, values.budget)],
            videos=[video for path in runs for video in sorted((path / "videos").glob("*.mp4"))],
        )
    except OSError as error:
        raise cli.UsageError(f"--out={out} cannot be written: {error.strerror}; name another file") from None
    print(f"report: {out}, with .png, .csv and .md beside it")


def _comparison(x: str, budget: float | None) -> Comparison:
    if budget is None:
        return Comparison(x=x)
    return Comparison(f"Scores at {EngFormatter(sep='')(budget)} {curves.AXES[x]}", x=x, budget=budget)


def label_arms(runs: Sequence[RunRecords]) -> list[RunRecords]:
    """Returns the runs with labels of arms that distinguish configurations.

    Where runs of a task and label differ in fields other than seeds, lengths and cadences, these fields and their
    values are added to the label.
    """
    labelled = []
    for run in runs:
        same_label = [other for other in runs if (other.task, other.arm) == (run.task, run.arm)]
        position = next(i for i, other in enumerate(same_label) if other is run)
        fields = [(name, row[position]) for name, row in records.differing_fields(same_label)]
        added = [f"{name}={value}" for name, value in fields if name not in _IGNORED_FIELDS]
        labelled.append(dataclasses.replace(run, arm=", ".join([run.arm, *added])))
    return labelled


if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
