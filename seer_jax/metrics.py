"""Where a run's numbers go: JSON lines, TensorBoard, and the terminal."""

import json
import math
import pathlib
import time

import rich.console
import rich.live
import rich.table
import tensorboardX


class MetricsWriter:
    """Appends records to `metrics.jsonl` and their numbers to TensorBoard."""

    def __init__(self, run_dir: pathlib.Path):
        self._lines = (run_dir / "metrics.jsonl").open("a", buffering=1)
        self._tensorboard = tensorboardX.SummaryWriter(str(run_dir / "tensorboard"))

    def write(self, kind: str, record: dict) -> None:
        """Writes one record, which holds `env_steps`; non-finite numbers become null in the JSON line."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._lines.write(json.dumps({"kind": kind} | finite) + "\n")
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != "env_steps":
                self._tensorboard.add_scalar(f"{kind}/{name}", value, record["env_steps"])

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
        if self.console.is_terminal:
            self._live.start()

    def update(self, **fields: str) -> None:
        """Replaces the named fields; the others stay as they are."""
        self._shown |= fields
        if not self.console.is_terminal:
            print("  ".join(f"{name} {value}" for name, value in self._shown.items()), flush=True)
            return
        table = rich.table.Table(title=self._title, show_header=False, min_width=60)
        for name, value in self._shown.items():
            table.add_row(name.replace("_", " "), value)
        self._live.update(table, refresh=True)

    def close(self) -> None:
        self._live.stop()


class Clock:
    """Wall time of a run, and the time and agent steps of each phase without what is not training."""

    def __init__(self):
        self._birth = self._since = time.monotonic()
        self._booked_steps = 0
        self.seconds: dict[str, float] = {}
        self.steps: dict[str, int] = {}

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

    def steps_per_second(self, phase: str) -> float:
        return self.steps[phase] / self.seconds[phase]
