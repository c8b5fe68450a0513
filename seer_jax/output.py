"""Standard streams of a command: what cannot be printed is lost, and does not end the command."""

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class _LossyFile(io.FileIO):
    """A descriptor whose failures to write, as of a full disk or a closed terminal, are ignored.

    Args:
      descriptor: of a standard stream.
      report: whether the first failure is printed on the standard error.
    """

    def __init__(self, descriptor: int, *, report: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._report = report

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            if self._report:
                self._report = False
                print(f"the standard output cannot be written ({error.strerror}); the rest is lost", file=sys.stderr)
            return len(data)


@contextlib.contextmanager
def lossy() -> Iterator[None]:
    """Inside, printing raises no error: neither if a stream cannot be written, nor if its encoding lacks a character.

    Streams that were replaced before, as tests do, stay as they are.
    """
    with contextlib.ExitStack() as stack:
        if sys.stderr is not None and sys.stderr is sys.__stderr__:
            stream = _lossy(sys.stderr, report=False, line_buffering=True)
            stack.callback(stream.flush)
            stack.enter_context(contextlib.redirect_stderr(stream))
        if sys.stdout is not None and sys.stdout is sys.__stdout__:
            stream = _lossy(sys.stdout, report=True, line_buffering=sys.stdout.isatty())
            stack.callback(stream.flush)
            stack.enter_context(contextlib.redirect_stdout(stream))
        yield


def _lossy(stream: TextIO, *, report: bool, line_buffering: bool) -> TextIO:
    stream.flush()
    raw = io.BufferedWriter(_LossyFile(stream.fileno(), report=report))
    return io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=line_buffering)
