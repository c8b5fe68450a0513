"""The numbers of a run as TensorBoard shows them; `test_loop.py` reads those of a whole run."""

import pytest

from seer_jax.run import metrics
from tests.helpers import events

COMMON = {"frames": 4, "updates": 2, "seconds": 0.5, "replay_size": 7, "flops_total": 1.0, "phase": "full"}


def record(kind, env_steps, **fields):
    return {"kind": kind, "env_steps": env_steps} | COMMON | fields


def test_fields_of_every_kind_have_one_tag_each_and_common_fields_are_shown_once(tmp_path):
    writer = metrics.MetricsWriter(tmp_path, hparams={"seed": 3, "env.task": "pong", "seer.init_from": None})
    writer.write(record("train", 5, loss=0.25, steps_per_second=9.0, flops_act=2.0, return_mean=None))
    writer.write(record("episode", 5, length=3) | {"return": 1.0})
    writer.write(record("eval", 5, eval_return_mean=6.0, eval_returns=[6.0], human_normalized=None))
    writer.write(record("signal", 5, drift_half=0.125, drift_half_conv1=0.0625))
    writer.write(record("freeze", 5, rows_moved=8))
    writer.write(record("checkpoint", 5))
    writer.write(record("end", 5, eval_return_mean=6.0, full_steps_per_second=9.0, full_replay_bytes=50, flops_act=2.0))
    writer.close()
    shown, hparams = events.read(tmp_path / "tensorboard")
    assert {tag: value for (tag, _), value in shown.items()} == {
        "progress/frames": 4,
        "progress/updates": 2,
        "progress/seconds": 0.5,
        "replay/size": 7,
        "cost/flops_total": 1.0,
        "train/loss": 0.25,
        "speed/steps_per_second": 9.0,
        "cost/flops_act": 2.0,
        "episode/length": 3,
        "episode/return": 1.0,
        "eval/return_mean": 6.0,
        "signal/drift_half": 0.125,
        "signal/drift_half_conv1": 0.0625,
        "freeze/rows_moved": 8,
        "speed/full_steps_per_second": 9.0,
        "replay/full_bytes": 50,
    }
    assert hparams == {"seed": 3.0, "env.task": "pong"}


@pytest.mark.parametrize("checkpointed", [True, False])
def test_resumed_run_shows_each_number_once_and_loses_none(tmp_path, checkpointed):
    """The run stops after the freeze, which is as late as the checkpoint before it; without one it starts anew."""
    before = [record("train", 3, loss=1.0), record("train", 6, loss=2.0), record("eval", 6, eval_return_mean=3.0)]
    after = [record("freeze", 6, rows_moved=4), record("train", 9, loss=4.0)]
    writer = metrics.MetricsWriter(tmp_path, hparams={"seed": 1})
    sizes = [writer.write(each) or writer.sync() for each in before + after]
    writer.close()
    if checkpointed:
        writer = metrics.MetricsWriter(tmp_path, offset=sizes[2], env_steps=6, hparams={"seed": 1})
    else:
        writer, after = metrics.MetricsWriter(tmp_path, hparams={"seed": 1}), before + after
    for each in after:
        writer.write(each)
    writer.close()
    shown, hparams = events.read(tmp_path / "tensorboard")
    assert {step: value for (tag, step), value in shown.items() if tag == "train/loss"} == {3: 1.0, 6: 2.0, 9: 4.0}
    assert (shown["eval/return_mean", 6], shown["freeze/rows_moved", 6], hparams["seed"]) == (3.0, 4.0, 1.0)
