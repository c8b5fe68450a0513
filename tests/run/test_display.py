"""What a run prints on a terminal, or for who reads its output."""

import pytest

from seer_jax.run import display
from seer_jax.run.resolve import resolve
from tests.helpers.runs import tiny_config

TRAIN = {
    "kind": "train",
    "env_steps": 100,
    "phase": "full",
    "steps_per_second": None,
    "return_mean": None,
    "replay_size": 110,
    "replay_capacity": 300,
    "replay_bytes": 2e6,
}
FREEZE = {
    "kind": "freeze",
    "env_steps": 200,
    "phase": "frozen",
    "rows_moved": 1234,
    "replay_bytes_before": 3e6,
    "replay_bytes": 1e6,
}
EVAL = {"kind": "eval", "env_steps": 400, "eval_return_mean": 95.0, "eval_return_std": 25.0}
COSTS = {"steps_per_second": 10.0, "flops_per_step": 4e6, "replay_capacity": 300, "replay_bytes": 2e6}


@pytest.fixture
def shown(tmp_path):
    made = display.Display(resolve(tiny_config()), tmp_path)
    yield made
    made.close()


def test_without_a_terminal_each_train_freeze_and_eval_record_is_a_line(shown, capsys):
    shown.show(TRAIN)
    shown.show({"kind": "episode", "return": 3.0})
    shown.show({"kind": "checkpoint"})
    shown.show(TRAIN | {"steps_per_second": 7.5, "return_mean": 1.25, "loss": 0.5})
    shown.show(FREEZE)
    shown.show(TRAIN | {"env_steps": 300})
    shown.show(EVAL)
    first, second, third, fourth, fifth = capsys.readouterr().out.splitlines()
    assert first == (
        "phase full  steps 100/400  steps_per_second -  time_left -  recent_return -  loss -  replay 110/300 rows, 2 MB"
    )
    assert "steps_per_second 8  time_left 0:00:40  recent_return 1.2  loss 0.500" in second
    assert third.startswith("phase frozen  steps 200/400")
    assert third.endswith("froze 1,234 rows, 3 MB of frames -> 1 MB of latents after 200 steps")
    assert fourth.startswith("phase full  steps 300/400")
    assert "of latents after 200 steps" in fourth
    assert fifth.endswith("evaluation 95.0 ± 25.0 after 400 steps")


@pytest.mark.parametrize("phases", [["full"], ["full", "frozen"]])
def test_end_compares_phases_and_evaluations(shown, capsys, phases):
    costs = {f"full_{name}": value for name, value in COSTS.items()}
    costs |= {f"frozen_{name}": 2 * value for name, value in COSTS.items()}
    shown.end({"env_steps": 400} | costs, [EVAL | {"env_steps": 200, "eval_return_mean": 5.0}, EVAL], phases)
    out = capsys.readouterr().out
    assert ("2.00x" in out) == ("frozen phase" in out) == (phases[-1] == "frozen")
    assert "5.0 ± 25.0 after 200 steps, 95.0 ± 25.0 after 400 steps; random" in " ".join(out.split())


def test_end_names_a_single_evaluation_once(shown, capsys):
    shown.end({"env_steps": 400} | {f"full_{name}": value for name, value in COSTS.items()}, [EVAL], ["full"])
    assert capsys.readouterr().out.count("95.0 ± 25.0 after 400 steps") == 1
