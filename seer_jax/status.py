"""What a command is doing, shown while it prints nothing else: on a terminal as the last line, elsewhere as lines.

Programs that use the package otherwise show nothing: `start` or `enable` comes first.
Its own imports are those of the standard library, so that a command can show something before its other imports, which
take seconds. A thread exists while an activity goes on, and only then.
"""

import atexit
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_FIRST_LINE = 3.0  # seconds after the start of a command, if it has printed nothing by then
_NEXT_LINE = 8.0  # seconds without output after which a line is printed
_TICK = 1.0  # seconds between two looks at the time


class _Activity(NamedTuple):
    text: str | Callable[[], str]
    began: float


class _Status:
    """The activities that go on, the newest last, and what a terminal shows of them below a table."""

    def __init__(self) -> None:
        self._program, self._limit, self._printed = "seer_jax", _NEXT_LINE, time.monotonic()
        self._enabled = False
        self._activities: list[_Activity] = []
        self._starting = contextlib.ExitStack()
        self._done: threading.Event | None = None
        self._table: Any = None
        self._live: Any = None

    def start(self, program: str) -> None:
        """Begins the activity `starting` of a command, which ends with its next activity or with the process."""
        self._program, self._limit, self._printed = program, _FIRST_LINE, time.monotonic()
        self.enable()
        self._starting.enter_context(self._shown("starting"))

    def enable(self) -> None:
        """Lets activities be shown from now on."""
        self._enabled = True

    def disable(self) -> None:
        """Shows no activities any more."""
        self._enabled = False
        self._refresh()

    @contextlib.contextmanager
    def activity(self, text: str | Callable[[], str]) -> Iterator[None]:
        """Shows what is done inside, and for how long.

        Args:
          text: a participle and its object; a function is called, in another thread, whenever it is shown.
        """
        self.end_start()
        with self._shown(text):
            yield

    @contextlib.contextmanager
    def _shown(self, text: str | Callable[[], str]) -> Iterator[None]:
        self._activities.append(_Activity(text, time.monotonic()))
        if self._done is None:
            self._done = threading.Event()
            threading.Thread(target=self._watch, args=(self._done,), daemon=True).start()
        self._refresh()
        self._remind()
        try:
            yield
        finally:
            self._activities.pop()
            if not self._activities and self._done is not None:
                self._done.set()
                self._done = None
            self._refresh()

    def end_start(self) -> None:
        """Ends the activity `starting`, if it goes on."""
        self._starting.close()

    def printed(self) -> None:
        """Says that the command has just printed something."""
        self._printed, self._limit = time.monotonic(), _NEXT_LINE

    def show(self, table: Any) -> None:
        """Shows a renderable of rich above the activity, on a terminal; None removes it."""
        self._table = table
        self._refresh()

    def on_terminal(self) -> bool:
        """Returns whether the output is a terminal, on which what is shown can be replaced."""
        return sys.stdout.isatty() and not _console().is_dumb_terminal

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(_TICK):
            self._remind()

    def _remind(self) -> None:
        """Shows the time of the newest activity, as far as something is to be shown by now."""
        with contextlib.suppress(OSError, ValueError):  # the output was closed
            if self._live is not None:
                self._live.refresh()
            elif self._enabled and time.monotonic() - self._printed >= self._limit:
                sys.stdout.write("".join(f"{self._program}: {line}\n" for line in self._lines()))
                sys.stdout.flush()
                self.printed()

    def _lines(self) -> list[str]:
        """Returns the line of the newest activity; none if it has just ended."""
        return [
            f"{text() if callable(text) else text}, {time.monotonic() - began:.0f} s"
            for text, began in self._activities[-1:]
        ]

    def _refresh(self) -> None:
        shown = self._enabled and (self._table is not None or self._activities)
        if self._live is not None and not shown:
            self._live.stop()
            self._live = None
        elif self._live is None and shown and self.on_terminal():
            self._live = _live(self._render)
            self._live.start(refresh=True)
        elif self._live is not None:
            self._live.refresh()

    def _render(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        return Group(*([] if self._table is None else [self._table]), *map(Text, self._lines()))


def _console() -> Any:
    import rich

    return rich.get_console()


def _live(render: Callable[[], Any]) -> Any:
    from rich.live import Live

    return Live(console=_console(), auto_refresh=False, transient=True, get_renderable=render)


_STATUS = _Status()
start, enable, disable, activity = _STATUS.start, _STATUS.enable, _STATUS.disable, _STATUS.activity
printed, show, on_terminal = _STATUS.printed, _STATUS.show, _STATUS.on_terminal
atexit.register(_STATUS.end_start)
