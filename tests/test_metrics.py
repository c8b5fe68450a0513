"""Records on disk and the clock of the phases."""

import json

import pytest

from seer_jax import metrics


def test_records_are_json_lines_with_null_for_what_is_no_number(tmp_path):
    writer = metrics.MetricsWriter(tmp_path)
    writer.write("train", {"env_steps": 3, "loss": float("nan"), "phase": "full"})
    writer.write("eval", {"env_steps": 4, "human_normalized": None, "eval_returns": [1.0, 2.0]})
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"kind": "train", "env_steps": 3, "loss": None, "phase": "full"},
        {"kind": "eval", "env_steps": 4, "human_normalized": None, "eval_returns": [1.0, 2.0]},
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_clock_books_phases_apart_and_skips_what_is_not_training(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    clock = metrics.Clock()
    for phase, seconds, steps in (("full", 10, 50), ("full", 5, 100), ("frozen", 2, 160)):
        now[0] += seconds
        clock.book(phase, steps)
        now[0] += 1000  # an evaluation
        clock.skip()
    assert clock.steps_per_second("full") == pytest.approx(100 / 15)
    assert clock.steps_per_second("frozen") == pytest.approx(60 / 2)
    assert clock.elapsed == pytest.approx(3017)


def test_without_a_terminal_each_update_is_a_line(capsys):
    display = metrics.Display("title")
    display.update(phase="full", steps="1/2")
    display.update(steps="2/2")
    display.close()
    assert capsys.readouterr().out == "phase full  steps 1/2\nphase full  steps 2/2\n"
