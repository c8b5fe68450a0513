"""Records on disk and the clock of the phases."""

import json
import resource

import pytest

from seer_jax.run import metrics


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
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"train/loss" in events
    assert b"eval/human_normalized" not in events


def test_a_full_disk_is_told_and_tears_no_line(tmp_path):
    """A limit on the size of files takes the disk's place: the last line fits in part."""
    writer = metrics.MetricsWriter(tmp_path)
    writer.write("train", {"env_steps": 1})
    size, limits = writer.sync(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(metrics.WriteError, match=r"metrics\.jsonl .* cannot be written"):
            writer.write("train", {"env_steps": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.write("train", {"env_steps": 3})
    writer.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["env_steps"] for line in lines] == [1, 3]


def test_a_file_that_was_lost_begins_anew_and_not_with_nothing(tmp_path):
    writer = metrics.MetricsWriter(tmp_path, offset=100)
    writer.write("train", {"env_steps": 3})
    writer.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"kind": "train", "env_steps": 3}


def test_metrics_that_cannot_be_opened_are_told(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(metrics.WriteError, match=r"metrics\.jsonl .* Is a directory"):
        metrics.MetricsWriter(tmp_path)


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
