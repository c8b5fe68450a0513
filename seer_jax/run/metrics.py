"""A run's numbers on disk, as JSON lines and for TensorBoard, and its clock."""

import contextlib
import errno
import json
import math
import os
import pathlib
import time

from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2, summary_pb2


class WriteError(Exception):
    """A record could not be written; those before it are intact."""


class MetricsWriter:
    """Appends records to `metrics.jsonl` and their numbers to TensorBoard."""

    def __init__(self, run_dir: pathlib.Path, *, offset: int = 0, env_steps: int = 0):
        """Opens both files.

        Args:
          run_dir: holds them.
          offset: bytes of `metrics.jsonl` to keep, of those that there are; what an interrupted run wrote after its
            checkpoint goes.
          env_steps: what TensorBoard shows from here on is replaced.

        Raises:
          WriteError: they cannot be opened.
        """
        self._path = run_dir / "metrics.jsonl"
        try:
            self._lines = self._path.open("ab", buffering=0)
            self._lines.truncate(min(offset, os.fstat(self._lines.fileno()).st_size))
            (run_dir / "tensorboard").mkdir(exist_ok=True)
            self._events = self._open_events(run_dir / "tensorboard", env_steps)
        except OSError as error:
            raise self._error(error) from None

    @staticmethod
    def _open_events(directory: pathlib.Path, env_steps: int) -> event_file_writer.EventsWriter:
        # Not tensorboardX's SummaryWriter: its thread dies of a full disk, and whoever writes next then waits for ever.
        events = event_file_writer.EventsWriter(str(directory / "events"))
        purge = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        events.write_event(event_pb2.Event(wall_time=time.time(), step=env_steps, session_log=purge))
        return events

    def _error(self, error: OSError) -> WriteError:
        return WriteError(f"{self._path} or tensorboard/ beside it cannot be written: {error.strerror}")

    def write(self, kind: str, record: dict) -> None:
        """Writes one record, which holds `env_steps`; non-finite numbers become null in the JSON line.

        Raises:
          WriteError: it could not be written.
        """
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        line = json.dumps({"kind": kind} | finite).encode() + b"\n"
        values = [
            summary_pb2.Summary.Value(tag=f"{kind}/{name}", simple_value=value)
            for name, value in record.items()
            if isinstance(value, (int, float)) and name != "env_steps"
        ]
        event = event_pb2.Event(
            wall_time=time.time(), step=record["env_steps"], summary=summary_pb2.Summary(value=values)
        )
        end = os.fstat(self._lines.fileno()).st_size
        try:
            if self._lines.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._events.write_event(event)
        except OSError as error:
            self._lines.truncate(end)  # a torn line is none
            raise self._error(error) from None

    def sync(self) -> int:
        """Puts all lines so far on disk and returns their bytes."""
        os.fsync(self._lines.fileno())
        self._events.flush()
        return os.fstat(self._lines.fileno()).st_size

    def close(self) -> None:
        self._lines.close()
        with contextlib.suppress(OSError):  # of an event that could not be written before, either
            self._events.close()


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
