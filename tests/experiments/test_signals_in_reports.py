"""Signals in reports: the figure of them, which shows what runs share once, and the table of their cost."""

import dataclasses
import math
import pathlib

import pytest
from matplotlib.figure import Figure

from experiments.report import page, records, signals, styles
from tests.helpers.record_factories import make_fork, make_line, make_records

STYLES = {arm: styles.nth(i) for i, arm in enumerate("ABC")}


def make_signal(env_steps, drift_untrained=0.5, **fields):
    return make_line("signal", env_steps, None, drift_untrained=drift_untrained, measure_seconds=0.25, **fields)


def add_signals(run, *found, **end):
    """Returns the records of a run with signals, and fields that are added to its end."""
    *lines, last = run.lines
    return dataclasses.replace(run, lines=[*lines, *found, last | end])


@pytest.fixture
def trunk():
    made = make_records("A", {100: 1.0, 200: 2.0, 300: 3.0})
    return add_signals(made, *(make_signal(steps, drift_half=0.1) for steps in (100, 200, 300)), macs_signal=3e6)


@pytest.fixture
def drawn(monkeypatch):
    """Receives the figures that are written."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, png, **_: [figures.append(figure), png.write(b"png")])
    return figures


def steps_of(found):
    return [each["env_steps"] for each in found]


def test_signals_that_a_fork_shares_with_its_trunk_are_drawn_once(trunk):
    frozen = make_fork(trunk, 200, "B", {300: 4.0})
    same = add_signals(make_fork(trunk, 200, "C", {300: 5.0}), make_signal(300, seconds=99.0))
    other = add_signals(make_fork(trunk, 100, "D", {200: 5.0}), make_signal(200, 0.6), make_signal(300, 0.7))
    runs = [trunk, frozen, same, other]
    assert [steps_of(signals.drawn_signals(run, runs)) for run in runs] == [[100, 200, 300], [], [], [100, 200, 300]]
    assert [each["drift_untrained"] for each in signals.drawn_signals(other, runs)] == [0.5, 0.6, 0.7]
    assert steps_of(signals.drawn_signals(frozen, runs[1:])) == [100, 200]


def test_figure_of_each_task_has_a_line_for_each_run_and_a_mark_for_each_freeze(trunk, drawn):
    fork = make_fork(trunk, 200, "B", {300: 4.0})
    fork.lines.insert(-1, make_line("freeze", 210, None, phase="frozen"))
    game = add_signals(make_records("B", {100: 1.0}, task="qbert"), make_signal(100))  # its only one lacks most fields
    silent = make_records("C", {100: 1.0}, task="pong", freeze=50)
    section = signals.section([trunk, fork, game, silent], STYLES)
    assert section is not None
    assert section.images == [("krull", b"png"), ("qbert", b"png")]
    assert [len(figure.axes) for figure in drawn] == [3, 3]
    trunk_line, _, mark = drawn[0].axes[0].lines
    assert list(trunk_line.get_ydata()) == [0.2, 0.2, 0.2]
    assert (list(mark.get_xdata()), mark.get_color()) == ([210, 210], STYLES["B"].color)


def test_quantities_that_a_signal_does_not_say_are_not_drawn():
    whole = signals.quantities(make_signal(1, 0.5, drift_half=0.1))
    assert whole == pytest.approx({"drift_half": 0.1, "drift_untrained": 0.5, "drift_ratio": 0.2})
    first = signals.quantities(make_signal(1, 0.0))
    assert {name for name, value in first.items() if not math.isnan(value)} == {"drift_untrained"}


def test_cost_of_signals_has_shares_of_the_full_phase_and_of_the_run(trunk):
    """Runs of 1e6 multiply-accumulates and 0.1 seconds an agent step."""
    fork = make_fork(trunk, 200, "B", {400: 4.0})
    fork.lines[-2:] = [line | {"phase": "frozen", "macs_signal": 2e6} for line in fork.lines[-2:]]
    unfinished = dataclasses.replace(fork, lines=fork.lines[:-1], arm="C")
    (table,) = signals.tables([trunk, fork, unfinished, make_records("D", {100: 1.0})])
    assert table.rows == [
        ["krull", "A", "3", "1", "0.25", "1.00% / 1.00%", "2.50% / 2.50%"],
        ["krull", "B", "2", "1", "0.25", "1.00% / 0.50%", "2.50% / 1.25%"],
    ]


def test_stages_are_compared_with_the_features_over_the_signals_that_are_not_shared(trunk):
    staged = [signal | {"drift_half_conv1": 0.01 * i} for i, signal in enumerate(trunk.of_kind("signal"), start=1)]
    whole = dataclasses.replace(trunk, lines=[*staged, trunk.lines[-1]])
    fork = add_signals(make_fork(whole, 200, "B", {400: 4.0}), macs_signal=2e6)
    stages, _ = signals.tables([whole, fork])
    assert stages.rows == [["krull", "A", "conv1", "3", "0.02000", "0.10000", "0.200"]]


def test_records_without_signals_have_neither_figure_nor_table():
    kept = next((pathlib.Path(records.__file__).parents[1] / "results" / "runs").glob("krull-seer-*.jsonl"))
    run = records.read(kept)
    assert signals.section([run], {run.arm: styles.nth(0)}) is None
    assert signals.tables([run]) == []


def test_page_shows_signals(trunk, monkeypatch, tmp_path):
    monkeypatch.setattr(page.figures, "draw", lambda path, *_: path.write_bytes(b"png"))
    page.write(tmp_path / "x.html", [trunk], title="", command="")
    assert "<h2>Signals of the encoder</h2>" in (tmp_path / "x.html").read_text()
    assert "| krull | A | 3 | 1 | 0.25 |" in (tmp_path / "x.md").read_text()
    assert (tmp_path / "x-signals-of-the-encoder-1.png").read_bytes().startswith(b"\x89PNG")
