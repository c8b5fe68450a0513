"""What commands show while they print nothing else."""

import os
import pathlib
import pty
import subprocess
import sys
import threading
import time

import pytest

from seer_jax import status

ROOT = pathlib.Path(__file__).parents[1]
# Shows an activity, a table above another one, and a line of its own, on whatever its output is.
SCRIPT = """
import time
from rich.table import Table
from seer_jax import status
status._TICK = 0.02
status.enable()
table = Table()
table.add_row("the table")
with status.activity("compiling"):
    time.sleep(0.1)
status.show(table)
with status.activity(lambda: "evaluating"):
    time.sleep(0.1)
    print("a warning")
    time.sleep(0.1)
status.show(None)
print("the end")
"""


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(status, "_TICK", 0.01)
    monkeypatch.setattr(status, "_NEXT_LINE", 0.2)
    monkeypatch.setattr(status._STATUS, "_enabled", True)
    status.printed()
    yield
    monkeypatch.undo()
    status.printed()


def test_silent_activity_is_printed_with_its_time_and_one_that_prints_is_not(impatient, capsys):
    threads = set(threading.enumerate())
    with status.activity("writing"):
        for _ in range(20):
            time.sleep(0.02)
            status.printed()
    assert capsys.readouterr().out == ""
    began = time.monotonic()
    with status.activity("filling"), status.activity(lambda: f"evaluating {threads}"):
        while not (out := capsys.readouterr().out):
            assert time.monotonic() < began + 10
    assert out == f"seer_jax: evaluating {threads}, 0 s\n"
    time.sleep(0.3)
    assert capsys.readouterr().out == ""
    assert set(threading.enumerate()) <= threads


def test_program_that_only_uses_the_package_shows_no_activity(impatient, monkeypatch, capsys):
    monkeypatch.setattr(status._STATUS, "_enabled", False)
    with status.activity("encoding"):
        time.sleep(0.4)
    assert capsys.readouterr().out == ""


def test_activity_that_raises_ends(impatient, capsys):
    threads = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), status.activity("dividing"):
        _ = 1 / 0
    time.sleep(0.3)
    assert capsys.readouterr().out == ""
    assert set(threading.enumerate()) <= threads


def test_terminal_shows_activities_below_the_table_and_leaves_neither():
    terminal, output = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=output, cwd=ROOT, env=environment) as process:
        os.close(output)
        shown = b""
        while chunk := _read(terminal):
            shown += chunk
    assert process.returncode == 0
    text = shown.decode()
    assert text.index("compiling, 0 s") < text.index("the table") < text.index("evaluating, 0 s")
    assert text.count("a warning") == 1
    after = text[text.rindex("evaluating, 0 s") :]
    assert "the table" in after  # without an activity the table stays
    assert after.index("\x1b[?25h") < after.index("the end")  # the cursor is back
    assert "evaluating" not in after[after.index("the table") :]


def _read(terminal):
    try:
        return os.read(terminal, 1024)
    except OSError:  # the process has closed its side
        return b""


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_command_shows_that_it_starts_while_its_imports_take_seconds(command, tmp_path):
    (tmp_path / "absl.py").write_text("import time\ntime.sleep(4)\nraise SystemExit(7)")
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", f"seer_jax.{command}"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    with process:
        assert process.stdout.readline() == f"{command}: starting, 3 s\n"
        assert time.monotonic() < began + 5
        assert process.stdout.read() == ""
    assert process.returncode == 7
