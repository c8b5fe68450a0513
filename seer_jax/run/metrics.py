"""The records of a run on disk: JSON lines, and events for TensorBoard."""

import contextlib
import errno
import json
import math
import os
import pathlib
import time
import warnings
from collections.abc import Callable
from typing import Any

from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2 as _event_pb2
from tensorboardX.proto import summary_pb2 as _summary_pb2

from seer_jax.run.records import Record

# Generated modules, whose names a type checker does not see.
event_pb2: Any = _event_pb2
summary_pb2: Any = _summary_pb2


class WriteError(Exception):
    """A record could not be written; earlier ones are intact."""


class MetricsWriter:
    """Appends records to `metrics.jsonl` and their numbers to TensorBoard.

    Args:
      run_dir: directory of the run.
      offset: bytes of `metrics.jsonl` to keep; lines that an interrupted run wrote after its checkpoint are removed.
      env_steps: agent step from which on TensorBoard's events are replaced.
      warn: receives one line if the file does not hold whole lines up to `offset`.

    Raises:
      WriteError: the files cannot be opened.
    """

    def __init__(
        self,
        run_dir: pathlib.Path,
        *,
        offset: int = 0,
        env_steps: int = 0,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        self._path = run_dir / "metrics.jsonl"
        try:
            self._lines = self._path.open("ab", buffering=0)
            kept = _whole_lines(self._path.read_bytes()[:offset])
            self._lines.truncate(kept)
            (run_dir / "tensorboard").mkdir(exist_ok=True)
            self._events = self._open_events(run_dir / "tensorboard", env_steps)
        except OSError as error:
            raise self._error(error) from None
        if kept < offset:
            warn(
                f"{self._path} lost lines that it had at the checkpoint: {kept:,} of {offset:,} bytes are whole lines;"
                " the run goes on after them"
            )

    @staticmethod
    def _open_events(directory: pathlib.Path, env_steps: int) -> event_file_writer.EventsWriter:
        # Not tensorboardX's SummaryWriter: its thread ends when the disk is full, and the next write waits forever.
        events = event_file_writer.EventsWriter(str(directory / "events"))
        purge = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        events.write_event(event_pb2.Event(wall_time=time.time(), step=env_steps, session_log=purge))
        return events

    def _error(self, error: OSError) -> WriteError:
        return WriteError(f"{self._path} or tensorboard/ beside it cannot be written: {error.strerror}")

    def write(self, record: Record) -> None:
        """Writes one record; numbers that are not finite become null in the JSON line.

        Raises:
          WriteError: it could not be written.
        """
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        line = json.dumps(finite).encode() + b"\n"
        values = [
            summary_pb2.Summary.Value(tag=f"{record['kind']}/{name}", simple_value=value)
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
            self._lines.truncate(end)  # removes a line that was written in part
            raise self._error(error) from None

    def sync(self) -> int:
        """Waits until all lines are on disk and returns the size of the file in bytes."""
        os.fsync(self._lines.fileno())
        self._events.flush()
        return os.fstat(self._lines.fileno()).st_size

    def close(self) -> None:
        """Closes both files."""
        self._lines.close()
        with contextlib.suppress(OSError):  # an earlier event could not be written either
            self._events.close()


def _whole_lines(content: bytes) -> int:
    """Returns how many bytes stay if all after the last line that holds a record is cut off."""
    while content:
        content = content[: content.rfind(b"\n") + 1]
        last = content[content.rfind(b"\n", 0, -1) + 1 :]
        with contextlib.suppress(ValueError):
            json.loads(last)
            break
        content = content[: len(content) - len(last)]
    return len(content)
