"""Published scores to compare with."""

import csv
import dataclasses
import pathlib
from collections.abc import Iterable

# Policies without observations, which `experiments.studies.open_loop` evaluates: method in the file, label in tables.
OPEN_LOOP_LABELS = {"Random": "random play", "No force": "no force"}
_FILE = pathlib.Path(__file__).parent / "reference_scores.csv"


@dataclasses.dataclass(frozen=True)
class Reference:
    """A published score.

    Attributes:
      task: on which it was reached.
      method: that reached it.
      label: method, setting and source.
      mean: the score.
      std: over seeds; None if it was not published.
    """

    task: str
    method: str
    label: str
    mean: float
    std: float | None


def read(tasks: Iterable[str]) -> list[Reference]:
    """Returns the published scores on these tasks."""
    tasks = set(tasks)
    with _FILE.open(newline="") as f:
        return [
            Reference(
                task=row["task"],
                method=row["method"],
                label=f"{row['method']}, {row['setting']} ({row['source']})",
                mean=float(row["mean"]),
                std=float(row["std"]) if row["std"] else None,
            )
            for row in csv.DictReader(f)
            if row["task"] in tasks
        ]
