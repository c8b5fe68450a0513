"""Records on disk, as JSON lines and as events for TensorBoard."""

import json
import math
import resource

import pytest

from seer_jax.run import metrics


def lines_of(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_non_finite_numbers_are_null_in_json_lines(tmp_path):
    writer = metrics.MetricsWriter(tmp_path)
    writer.write({"kind": "train", "env_steps": 3, "loss": math.nan, "phase": "full"})
    writer.write({"kind": "eval", "env_steps": 4, "human_normalized": None, "eval_returns": [1.0, 2.0]})
    writer.close()
    assert lines_of(tmp_path) == [
        {"kind": "train", "env_steps": 3, "loss": None, "phase": "full"},
        {"kind": "eval", "env_steps": 4, "human_normalized": None, "eval_returns": [1.0, 2.0]},
    ]


def test_full_disk_raises_and_leaves_no_partial_line(tmp_path):
    """A limit on the size of files takes the disk's place: the last line fits in part."""
    writer = metrics.MetricsWriter(tmp_path)
    writer.write({"kind": "train", "env_steps": 1})
    size, limits = writer.sync(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(metrics.WriteError, match=r"metrics\.jsonl .* cannot be written"):
            writer.write({"kind": "train", "env_steps": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.write({"kind": "train", "env_steps": 3})
    writer.close()
    assert [line["env_steps"] for line in lines_of(tmp_path)] == [1, 3]


@pytest.mark.parametrize(
    "end", [b"", b'{"kind": "tra', b'{"kind": "tra\n', b'{"kind": "tra' + bytes(40), b"\n\n"], ids=repr
)
def test_file_that_lost_its_end_is_cut_to_whole_lines_with_a_warning(tmp_path, end):
    """It is shorter than it was at the checkpoint, or holds something else there."""
    whole = b'{"kind": "train", "env_steps": 1}\n'
    (tmp_path / "metrics.jsonl").write_bytes(whole + end)
    warned = []
    writer = metrics.MetricsWriter(tmp_path, offset=len(whole) + 30, warn=warned.append)
    writer.write({"kind": "train", "env_steps": 2})
    writer.close()
    assert [line["env_steps"] for line in lines_of(tmp_path)] == [1, 2]
    (warning,) = warned
    assert f"lost lines that it had at the checkpoint: {len(whole)} of {len(whole) + 30} bytes" in warning


def test_lost_file_begins_anew_without_zero_bytes(tmp_path):
    writer = metrics.MetricsWriter(tmp_path, offset=100, warn=lambda message: None)
    writer.write({"kind": "train", "env_steps": 3})
    writer.close()
    assert lines_of(tmp_path) == [{"kind": "train", "env_steps": 3}]


def test_partial_line_is_removed_when_a_run_is_resumed(tmp_path):
    writer = metrics.MetricsWriter(tmp_path)
    writer.write({"kind": "train", "env_steps": 1})
    size = writer.sync()
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"kind": "train", "env_st')
    metrics.MetricsWriter(tmp_path, offset=size, warn=pytest.fail).close()
    assert [line["env_steps"] for line in lines_of(tmp_path)] == [1]


def test_metrics_that_cannot_be_opened_raise(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(metrics.WriteError, match=r"metrics\.jsonl .* Is a directory"):
        metrics.MetricsWriter(tmp_path)
