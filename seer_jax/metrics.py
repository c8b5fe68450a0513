"""Where a run's numbers go: JSON lines, TensorBoard, and the terminal."""

import json
import math
import os
import pathlib
import time

import rich.console
import rich.live
import rich.table
import tensorboardX


class MetricsWriter:
    """Appends records to `metrics.jsonl` and their numbers to TensorBoard."""

    def __init__(self, run_dir: pathlib.Path, *, offset: int = 0, env_steps: int = 0):
        """Opens both files.

        Args:
          run_dir: holds them.
          offset: bytes of `metrics.jsonl` to keep; what an interrupted run wrote after its checkpoint goes.
          env_steps: what TensorBoard shows from here on is replaced.
        """
        self._lines = (run_dir / "metrics.jsonl").open("a", buffering=1)
        self._lines.truncate(offset)
        self._tensorboard = tensorboardX.SummaryWriter(str(run_dir / "tensorboard"), purge_step=env_steps)

    def write(self, kind: str, record: dict) -> None:
        """Writes one record, which holds `env_steps`; non-finite numbers become null in the JSON line."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._lines.write(json.dumps({"kind": kind} | finite) + "\n")
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != "env_steps":
                self._tensorboard.add_scalar(f"{kind}/{name}", value, record["env_steps"])

    def sync(self) -> int:
        """Puts all lines so far on disk and returns their bytes."""
        os.fsync(self._lines.fileno())
        return os.fstat(self._lines.fileno()).st_size

    def close(self) -> None:
        self._lines.close()
        self._tensorboard.close()


class Display:
    """The state of a run: a live table on a terminal, a line at each `update` elsewhere."""

    def __init__(self, title: str):
        self.console = rich.console.Console()
        self._title = title
        self._shown: dict[str, str] = {}
        self._live = rich.live.Live(console=self.console, auto_refresh=False, transient=True)

    def update(self, **fields: str) -> None:
        """Replaces the named fields; the others stay as they are."""
        self._shown |= fields
        if not self.console.is_terminal:
            print("  ".join(f"{name} {value}" for name, value in self._shown.items()), flush=True)
            return
        self._live.start()
        table = rich.table.Table(title=self._title, show_header=False, min_width=60)
        for name, value in self._shown.items():
            table.add_row(name.replace("_", " "), value)
        self._live.update(table, refresh=True)

    def close(self) -> None:
        self._live.stop()


def phase_table(title: str, record: dict, phases: list[str]) -> rich.table.Table:
    """Returns what the phases of a run cost, side by side.

    Args:
      title: of the table.
      record: holds `PHASE_steps_per_second`, `PHASE_flops_per_step`, `PHASE_replay_capacity` and
        `PHASE_replay_bytes` for each phase.
      phases: one, or two to compare.
    """
    table = rich.table.Table(title=title)
    table.add_column("")
    for column in (*(f"{phase} phase" for phase in phases), "ratio")[: 2 * len(phases) - 1]:
        table.add_column(column, justify="right")
    for label, name, unit in (
        ("agent steps/s", "steps_per_second", 1),
        ("MFLOP per agent step", "flops_per_step", 1e6),
        ("replay rows", "replay_capacity", 1),
        ("replay MB", "replay_bytes", 1e6),
    ):
        values = [record[f"{phase}_{name}"] / unit for phase in phases]
        ratio = [f"{values[1] / values[0]:.2f}x"] if len(values) == 2 else []
        table.add_row(label, *(f"{value:,.0f}" for value in values), *ratio)
    return table


class Clock:
    """Wall time of a run, and the time and agent steps of each phase without what is not training."""

    def __init__(self):
        self._birth = self._since = time.monotonic()
        self._booked_steps = 0
        self.seconds: dict[str, float] = {}
        self.steps: dict[str, int] = {}

    def state(self) -> dict:
        """Returns what `restore` needs, for JSON."""
        return {"elapsed": self.elapsed, "steps": self.steps, "seconds": self.seconds, "booked": self._booked_steps}

    def restore(self, state: dict) -> None:
        """Goes on from what another clock's `state` was."""
        self._birth = time.monotonic() - state["elapsed"]
        self.steps, self.seconds, self._booked_steps = state["steps"], state["seconds"], state["booked"]

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return time.monotonic() - self._birth

    def book(self, phase: str, env_steps: int) -> None:
        """Books time and steps since the last `book` or `skip` to `phase`."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self.steps[phase] = self.steps.get(phase, 0) + env_steps - self._booked_steps
        self._since, self._booked_steps = now, env_steps

    def skip(self) -> None:
        """Books the time since the last `book` to no phase."""
        self._since = time.monotonic()

    def steps_per_second(self, phase: str) -> float | None:
        """Speed of a phase; None while no step of it is booked."""
        steps = self.steps.get(phase)
        return steps / self.seconds[phase] if steps else None
