"""What many runs have done so far, read from the files that they write: a live table on a terminal, lines elsewhere."""

import datetime
import json
import pathlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Self

import rich.console
import rich.live
import rich.table

from experiments.runner.process import Outcome
from experiments.runner.spec import Run
from seer_jax.run import run_dir

_TERMINAL_SECONDS, _LINE_SECONDS = 0.5, 8.0  # between two updates
_TAIL_BYTES = 65_536  # holds a line of kind `train` unless hundreds of episodes end between two of them


class Status(NamedTuple):
    """What a run has done.

    Attributes:
      env_steps: agent steps.
      total_steps: agent steps at its end.
      phase: `full` or `frozen`; None before its first record.
      steps_per_second: agent steps, as the run last measured them; None before that.
    """

    env_steps: int
    total_steps: int
    phase: str | None = None
    steps_per_second: float | None = None

    @property
    def steps(self) -> str:
        return f"{self.env_steps:,}/{self.total_steps:,}"

    @property
    def speed(self) -> str:
        return f"{self.steps_per_second:,.0f}" if self.steps_per_second else "-"

    @property
    def time_left(self) -> str:
        if not self.steps_per_second:
            return "-"
        return _format(max(self.total_steps - self.env_steps, 0) / self.steps_per_second)


class PoolDisplay:
    """Shows the running runs and a total; a context in which a terminal has a live table.

    Args:
      runs: all that will be shown, each from the call of `add` on.
      out: directory that holds `runs/`.
    """

    def __init__(self, runs: Sequence[Run], out: pathlib.Path) -> None:
        self._num_runs, self._out = len(runs), out
        self._outcomes: dict[str, Outcome] = {}
        self._statuses: dict[str, Status] = {}
        self._began: dict[str, float] = {}
        self._console = rich.console.Console()
        self._live = rich.live.Live(console=self._console, auto_refresh=False, transient=True)
        self._start, self._next = time.monotonic(), 0.0

    def __enter__(self) -> Self:
        print(f"{self._num_runs} runs in {self._out / 'runs'}, with the output of each in NAME.log", flush=True)
        self._next = time.monotonic() + self._interval
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()
        print(f"{self._elapsed()}  {self._counts([])}", flush=True)

    def add(self, run: Run) -> None:
        """Adds one of the runs to what is shown, with its steps if it was interrupted earlier.

        Raises:
          UsageError, ConfigError: its configuration is invalid.
        """
        total_steps = run.load(self._out.absolute() / "runs").total_steps
        self._read_status(run.name, Status(0, total_steps))
        self.show([], {})

    def show(self, running: Collection[str], outcomes: Mapping[str, Outcome]) -> None:
        """Shows the runs, unless they were shown a short time ago.

        Args:
          running: names of the runs that have a process now.
          outcomes: of runs that have ended, by name; earlier ones are kept.
        """
        self._outcomes.update(outcomes)
        now = time.monotonic()
        for name in running:
            self._began.setdefault(name, now)
        if now < self._next:
            return
        self._next = now + self._interval
        for name in running:
            self._read_status(name, self._statuses[name])
        if self._console.is_terminal:
            self._live.update(self._table(running), refresh=True)
        else:
            self._print_lines(running)

    def _read_status(self, name: str, before: Status) -> None:
        self._statuses[name] = read_status(self._out / "runs" / name, before)

    @property
    def _interval(self) -> float:
        return _TERMINAL_SECONDS if self._console.is_terminal else _LINE_SECONDS

    def _print_lines(self, running: Collection[str]) -> None:
        print(f"{self._elapsed()}  {self._counts(running)}: {_in_words(self._total(running))}", flush=True)
        for name in running:
            print(f"{self._elapsed()}    {name}: {self._state(name)}, {_in_words(self._statuses[name])}", flush=True)

    def _table(self, running: Collection[str]) -> rich.table.Table:
        total = self._total(running)
        table = rich.table.Table(title=f"{self._counts(running)}, {self._elapsed()}", show_footer=True)
        table.add_column("run", "total", overflow="fold")
        table.add_column("phase")
        for title, footer in (("steps", total.steps), ("steps/s", total.speed), ("time left", total.time_left)):
            table.add_column(title, footer, justify="right")
        for name in running:
            status = self._statuses[name]
            table.add_row(name, self._state(name), status.steps, status.speed, status.time_left)
        return table

    def _state(self, name: str) -> str:
        """Returns the phase of a run; before its first record, how long it has been starting and compiling."""
        return self._statuses[name].phase or f"starting for {_format(time.monotonic() - self._began[name])}"

    def _counts(self, running: Collection[str]) -> str:
        failed = sum(outcome.code != 0 for outcome in self._outcomes.values())
        finished = f"{len(self._outcomes) - failed} of {self._num_runs} runs finished"
        return ", ".join([finished, *([f"{failed} failed"] if failed else []), f"{len(running)} running"])

    def _total(self, running: Collection[str]) -> Status:
        """Returns the sum over all runs that did not fail; the time left is that at the speed of now."""
        going_on = {name: status for name, status in self._statuses.items() if not self._failed(name)}
        done = sum(each.total_steps if name in self._outcomes else each.env_steps for name, each in going_on.items())
        speed = sum(self._statuses[name].steps_per_second or 0.0 for name in running)
        return Status(done, sum(each.total_steps for each in going_on.values()), None, speed)

    def _failed(self, name: str) -> bool:
        return name in self._outcomes and self._outcomes[name].code != 0

    def _elapsed(self) -> str:
        return _format(time.monotonic() - self._start)


def read_status(directory: pathlib.Path, before: Status) -> Status:
    """Returns what the newest records in a run directory say; `before` where there are none.

    Args:
      directory: of a run that is being trained, or has not written anything yet.
      before: an earlier status of the run.
    """
    try:
        with (directory / run_dir.METRICS_FILE).open("rb") as f:
            size = f.seek(0, 2)
            f.seek(max(0, size - _TAIL_BYTES))
            *lines, _ = f.read().split(b"\n")  # the last one is still being written, or empty
    except OSError:
        return before
    status = before
    for line in reversed(lines):
        try:
            record = json.loads(line)
            if status is before:
                status = before._replace(env_steps=record["env_steps"], phase=record["phase"])
            if record["kind"] == "train":
                return status._replace(steps_per_second=record["steps_per_second"])
        except (ValueError, KeyError, TypeError):  # the first line is cut off, or a line is damaged
            continue
    return status


def _in_words(status: Status) -> str:
    return f"{status.steps} steps, {status.speed} steps/s, {status.time_left} left"


def _format(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
