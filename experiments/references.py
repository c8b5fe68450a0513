"""Published scores to compare with."""

import csv
import dataclasses
import pathlib
from collections.abc import Iterable

# What policies reach that look at nothing, as `experiments.blind` plays them: methods, and what tables call them.
BLIND = {"Random": "random play", "No force": "no force"}
_FILE = pathlib.Path(__file__).parent / "reference_scores.csv"


@dataclasses.dataclass(frozen=True)
class Reference:
    """A published score.

    Attributes:
      task: that it was reached on.
      method: that reached it.
      label: method, setting and source.
      mean: the score.
      std: over seeds, where it was published.
    """

    task: str
    method: str
    label: str
    mean: float
    std: float | None


def read(tasks: Iterable[str]) -> list[Reference]:
    """Returns published scores on some tasks."""
    tasks = set(tasks)
    with _FILE.open(newline="") as f:
        return [
            Reference(
                row["task"],
                row["method"],
                f"{row['method']}, {row['setting']} ({row['source']})",
                float(row["mean"]),
                float(row["std"]) if row["std"] else None,
            )
            for row in csv.DictReader(f)
            if row["task"] in tasks
        ]
