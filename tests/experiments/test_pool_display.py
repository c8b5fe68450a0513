"""What is shown of many runs while they train."""

import contextlib
import functools
import json
import pathlib
import re
import sys
import time
from collections.abc import Iterator

import pytest
import rich.console

from experiments.runner import display, pool
from experiments.runner.display import PoolDisplay, Status, read_status
from experiments.runner.process import Outcome
from tests.experiments.test_runner import FakeRun
from tests.helpers.record_factories import make_line, write_run_dir

BEFORE = Status(0, 20_000)


def train_line(env_steps: int, steps_per_second: float | None, phase: str = "full") -> dict:
    return make_line("train", env_steps, None, steps_per_second=steps_per_second, phase=phase)


def append(directory: pathlib.Path, text: str) -> None:
    with (directory / "metrics.jsonl").open("a") as f:
        f.write(text)


@contextlib.contextmanager
def displaying(out: pathlib.Path, names: str) -> Iterator[PoolDisplay]:
    """Gives a display to which fake runs with these names of one letter were added."""
    runs = [FakeRun(name) for name in names]
    with PoolDisplay(runs, out) as shown:
        for run in runs:
            shown.add(run)
        yield shown


def test_status_is_that_of_the_newest_record_and_of_the_newest_measured_speed(tmp_path):
    directory = tmp_path / "run"
    assert read_status(directory, BEFORE) == BEFORE
    write_run_dir(directory, [])
    assert read_status(directory, BEFORE) == BEFORE
    append(directory, json.dumps(make_line("episode", 30, None))[:20])
    assert read_status(directory, BEFORE) == BEFORE
    write_run_dir(tmp_path / "other", [train_line(40, None), make_line("episode", 45, None)])
    assert read_status(tmp_path / "other", BEFORE) == Status(45, 20_000, "full", None)
    append(tmp_path / "other", f"{json.dumps(train_line(80, 7.5, 'frozen'))}\n")
    append(tmp_path / "other", f"{json.dumps(make_line('episode', 90, None, phase='frozen'))}\n")
    append(tmp_path / "other", '{"kind": "train"}\n[1]\ndamaged\n{"kind": "episode", "env_st')
    assert read_status(tmp_path / "other", BEFORE) == Status(90, 20_000, "frozen", 7.5)


def test_status_of_a_long_file_is_read_from_its_end(tmp_path):
    write_run_dir(tmp_path / "run", [train_line(step, 5.0) for step in range(2000)])
    append(tmp_path / "run", "".join(f"{json.dumps(make_line('episode', i, None))}\n" for i in range(2000)))
    assert read_status(tmp_path / "run", BEFORE._replace(steps_per_second=3.0)) == Status(1999, 20_000, "full", 3.0)


def test_lines_have_step_speed_and_time_left_of_running_runs_and_of_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(display, "_LINE_SECONDS", 0.0)
    with displaying(tmp_path, "abcde") as shown:
        assert capsys.readouterr().out.splitlines()[0] == (
            f"5 runs in {tmp_path / 'runs'}, with the output of each in NAME.log"
        )
        write_run_dir(tmp_path / "runs" / "a", [train_line(5000, 10.0)])
        shown.show(["a", "b"], {"c": Outcome(0), "d": Outcome(1, "bad")})
        total, first, second = capsys.readouterr().out.splitlines()
    time_pattern = r"\d:\d\d:\d\d"
    assert re.fullmatch(
        rf"{time_pattern}  1 of 5 runs finished, 1 failed, 2 running: 25,000/80,000 steps, 10 steps/s, 1:31:40 left",
        total,
    )
    assert re.fullmatch(rf"{time_pattern}    a: full, 5,000/20,000 steps, 10 steps/s, 0:25:00 left", first)
    assert re.fullmatch(rf"{time_pattern}    b: starting for {time_pattern}, 0/20,000 steps, - steps/s, - left", second)


def test_steps_of_an_interrupted_run_count_before_it_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(display, "_LINE_SECONDS", 0.0)
    write_run_dir(tmp_path / "runs" / "b", [train_line(5000, 10.0)])
    with displaying(tmp_path, "ab"):
        assert "0 of 2 runs finished, 0 running: 5,000/40,000 steps, - steps/s, - left" in capsys.readouterr().out


def test_lines_are_printed_at_a_bounded_rate(tmp_path, capsys):
    with displaying(tmp_path, "a") as shown:
        for _ in range(100):
            shown.show(["a"], {})
        assert capsys.readouterr().out.count("\n") == 1
    assert display._LINE_SECONDS < 10


def test_terminal_shows_a_table_and_at_the_end_one_line(tmp_path, monkeypatch, capsys):
    terminal = functools.partial(rich.console.Console, force_terminal=True, width=80)
    monkeypatch.setattr(display.rich.console, "Console", terminal)
    write_run_dir(tmp_path / "runs" / "a", [train_line(5000, 10.0)])
    monkeypatch.setattr(display, "_TERMINAL_SECONDS", 0.0)
    with displaying(tmp_path, "ab") as shown:
        capsys.readouterr()
        shown.show(["a"], {})
        printed = re.sub(r"\x1b\[[\d;?]*\w", "", capsys.readouterr().out)
        shown.show([], {"a": Outcome(0), "b": Outcome(0)})
    cells = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in printed.splitlines() if "│" in line or "┃" in line]
    assert "0 of 2 runs finished, 1 running, 0:00:0" in printed
    assert cells == [
        ["run", "phase", "steps", "steps/s", "time left"],
        ["a", "full", "5,000/20,000", "10", "0:25:00"],
        ["total", "", "5,000/40,000", "10", "0:58:20"],
    ]
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert last.endswith("0:00:00  2 of 2 runs finished, 0 running")


# Writes a line of metrics after a while in which nothing is written, as a run that compiles.
LATE = """
import json, pathlib, sys, time
time.sleep(0.6)
directory = pathlib.Path(sys.argv[1])
directory.mkdir()
(directory / "metrics.jsonl").write_text(json.dumps(json.loads(sys.argv[2])) + chr(10))
time.sleep(0.6)
"""


def test_pool_shows_its_processes_from_their_start_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(display, "_LINE_SECONDS", 0.3)

    class LateRun(FakeRun):
        def command(self, out: pathlib.Path) -> list[str]:
            return [sys.executable, "-c", LATE, str(out / "runs" / self.name), json.dumps(train_line(5000, 10.0))]

    began = time.monotonic()
    pool.train_all([LateRun("a")], tmp_path)
    taken = time.monotonic() - began
    lines = capsys.readouterr().out.splitlines()
    starting, full = (next(i for i, line in enumerate(lines) if text in line) for text in ("a: starting", "a: full"))
    assert starting < full
    assert "a: full, 5,000/20,000 steps, 10 steps/s, 0:25:00 left" in lines[full]
    assert "1 of 1 runs finished" in lines[-1]
    assert len(lines) <= 2 + 2 * (taken / 0.3 + 1)


@pytest.mark.parametrize("count", [0, 1])
def test_pool_with_nothing_to_train_says_so(tmp_path, capsys, count):
    runs = [FakeRun(str(i)) for i in range(count)]
    for run in runs:
        write_run_dir(tmp_path / "runs" / run.name, [{"kind": "end"}], run.load().to_dict())
    assert pool.train_all(runs, tmp_path) == {run.name: Outcome(0) for run in runs}
    assert f"{count} of {count} runs finished" in capsys.readouterr().out
