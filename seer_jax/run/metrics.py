"""The records of a run on disk: JSON lines, and events for TensorBoard."""

import contextlib
import errno
import json
import math
import os
import pathlib
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from seer_jax.run import tensorboard
from seer_jax.run.records import Record


class WriteError(Exception):
    """A record could not be written; earlier ones are intact."""


class MetricsWriter:
    """Appends records to `metrics.jsonl` and their numbers to TensorBoard.

    Args:
      run_dir: directory of the run.
      offset: bytes of `metrics.jsonl` to keep; lines that an interrupted run wrote after its checkpoint are removed.
      env_steps: agent step from which on TensorBoard's events are replaced.
      hparams: hyperparameters by dotted name, which TensorBoard shows.
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
        hparams: Mapping[str, Any] = types.MappingProxyType({}),
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        self._path = run_dir / "metrics.jsonl"
        try:
            self._lines = self._path.open("ab", buffering=0)
            kept = _whole_lines(self._path.read_bytes()[:offset])
            self._lines.truncate(kept)
            events = run_dir / "tensorboard"
            events.mkdir(exist_ok=True)
            # A fork begins with records of its trunk, whose events it does not have.
            begins = not (offset and any(path.stat().st_size for path in events.iterdir()))
            self._events = tensorboard.EventsWriter(
                events,
                env_steps=0 if begins else env_steps,
                kept=self._records_from(0 if begins else env_steps),
                hparams=hparams if begins else {},
            )
            if begins:
                self._events.flush()
        except OSError as error:
            raise self._error(error) from None
        if kept < offset:
            warn(
                f"{self._path} lost lines that it had at the checkpoint: {kept:,} of {offset:,} bytes are whole lines;"
                " the run goes on after them"
            )

    def _records_from(self, env_steps: int) -> list[Record]:
        """Returns the last records of the file, those with at least so many agent steps."""
        records = []
        for line in reversed(self._path.read_bytes().splitlines()):
            record = json.loads(line)
            if record["env_steps"] < env_steps:
                break
            records.append(record)
        return records[::-1]

    def _error(self, error: OSError) -> WriteError:
        return WriteError(f"{self._path} or tensorboard/ next to it cannot be written: {error.strerror}")

    def write(self, record: Record) -> None:
        """Writes one record; numbers that are not finite become null in the JSON line.

        Raises:
          WriteError: it could not be written.
        """
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        line = json.dumps(finite).encode() + b"\n"
        end = os.fstat(self._lines.fileno()).st_size
        try:
            if self._lines.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._events.write(record)
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
