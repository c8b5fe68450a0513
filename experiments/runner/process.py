"""A training run in a process of its own: where its output goes, and how it ended."""

import pathlib
from typing import NamedTuple

from experiments.runner.spec import Run

ROOT = pathlib.Path(__file__).parents[2]  # working directory, in which the paths of configuration files are looked up


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
      code: exit code of its process; 0 is success.
      message: last line of its output if it failed, else empty.
    """

    code: int
    message: str = ""


def log_path(run: Run, out: pathlib.Path) -> pathlib.Path:
    """Returns the file that holds the output of a run."""
    return out / "runs" / f"{run.name}.log"


def read_outcome(code: int, log: pathlib.Path) -> Outcome:
    """Returns the outcome of a process that has ended.

    Args:
      code: its exit code.
      log: file that holds its output.
    """
    if code == 0:
        return Outcome(0)
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return Outcome(code, lines[-1] if lines else "")
