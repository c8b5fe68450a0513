"""What every record holds, and who receives it."""

import json

import pytest

from seer_jax import flops
from seer_jax.run.metrics import MetricsWriter
from seer_jax.run.progress import Progress
from seer_jax.run.records import RecordWriter


@pytest.fixture
def progress():
    now = Progress(phase="full", env_steps=25, updates=9, rows=30)
    now.costs["full"] = {"replay_bytes": 1000, "replay_capacity": 50, "flops_per_step": 1.0, "macs_per_step": 1.0}
    now.ledger.add({"act": flops.Cost(6.0, 2.0), "update": flops.Cost(4.0, 1.0)})
    return now


def test_record_holds_the_common_fields_and_those_of_its_kind(progress):
    record = RecordWriter([], frames_per_step=4).write("train", progress, {"loss": 0.5})
    assert isinstance(record.pop("seconds"), float)
    assert record == {
        "kind": "train",
        "env_steps": 25,
        "frames": 100,
        "updates": 9,
        "phase": "full",
        "flops_total": 10.0,
        "macs_total": 3.0,
        "replay_bytes": 1000,
        "replay_capacity": 50,
        "replay_size": 30,
        "loss": 0.5,
    }


def test_every_receiver_gets_every_record_in_order_and_the_file_holds_the_same(progress, tmp_path):
    calls = []
    metrics = MetricsWriter(tmp_path)
    receivers = [metrics.write, lambda record: calls.append(("a", record)), lambda record: calls.append(("b", record))]
    writer = RecordWriter(receivers, frames_per_step=1)
    written = [writer.write(kind, progress, {}) for kind in ("train", "eval", "end")]
    metrics.close()
    assert calls == [(name, record) for record in written for name in "ab"]
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == written


def test_error_of_a_receiver_reaches_the_caller(progress):
    def fail(record):
        raise RuntimeError(record["kind"])

    with pytest.raises(RuntimeError, match="eval"):
        RecordWriter([fail], frames_per_step=1).write("eval", progress, {})
