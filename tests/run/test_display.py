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
    shown.show(0, TRAIN)
    shown.show(0, {"kind": "episode", "return": 3.0})
    shown.show(0, {"kind": "signal", "drift_untrained": 0.5})
    shown.show(0, {"kind": "checkpoint"})
    shown.show(0, TRAIN | {"steps_per_second": 7.5, "return_mean": 1.25, "loss": 0.5})
    shown.show(0, FREEZE)
    shown.show(0, TRAIN | {"env_steps": 300})
    shown.show(0, EVAL)
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
    first = EVAL | {"env_steps": 200, "eval_return_mean": 5.0}
    shown.end({0: display.End({"env_steps": 400} | costs, [first, EVAL], phases)})
    out = capsys.readouterr().out
    assert ("2.00x" in out) == ("frozen phase" in out) == (phases[-1] == "frozen")
    assert "5.0 ± 25.0 after 200 steps, 95.0 ± 25.0 after 400 steps; random" in " ".join(out.split())


def test_end_names_a_single_evaluation_once(shown, capsys):
    record = {"env_steps": 400} | {f"full_{name}": value for name, value in COSTS.items()}
    shown.end({0: display.End(record, [EVAL], ["full"])})
    assert capsys.readouterr().out.count("95.0 ± 25.0 after 400 steps") == 1


@pytest.fixture
def seeds_shown(tmp_path):
    made = display.Display(resolve(tiny_config(seed=3, num_seeds=3)), tmp_path)
    yield made
    made.close()


def test_lines_of_several_seeds_begin_with_the_seed(seeds_shown, capsys):
    seeds_shown.show(4, TRAIN)
    seeds_shown.show(3, FREEZE)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("seed 4  phase full  steps 100/400")
    assert second.startswith("seed 3  phase frozen  steps 200/400")


def test_terminal_has_a_column_for_each_seed(seeds_shown, monkeypatch):
    tables = []
    monkeypatch.setattr(display.status, "on_terminal", lambda: True)
    monkeypatch.setattr(display.status, "show", tables.append)
    seeds_shown.show(4, TRAIN)
    seeds_shown.show(5, EVAL)
    columns = {column.header: [*column.cells] for column in tables[-1].columns}
    assert list(columns) == ["", "seed 3", "seed 4", "seed 5"]
    rows = dict(zip(columns[""], zip(*(columns[f"seed {seed}"] for seed in (3, 4, 5)), strict=True), strict=True))
    assert rows["phase"] == ("-", "full", "-")
    assert rows["evaluation"] == ("-", "-", "95.0 ± 25.0 after 400 steps")


def test_several_seeds_end_with_one_table_of_their_scores(seeds_shown, capsys):
    record = {"env_steps": 400} | {f"full_{name}": value for name, value in COSTS.items()}
    last = {seed: EVAL | {"eval_return_mean": 10.0 * seed} for seed in (3, 5)}
    seeds_shown.end({seed: display.End(record, [EVAL, last[seed]], ["full"]) for seed in last})
    out = capsys.readouterr().out
    assert out.count("┏") == 1
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert cells == [
        ["3", "400", "95.0 ± 25.0", "30.0 ± 25.0", "10"],
        ["5", "400", "95.0 ± 25.0", "50.0 ± 25.0", "10"],
        ["mean", "", "95.0 ± 0.0", "40.0 ± 14.1", ""],
    ]
    assert out.splitlines()[-1] == "seed 4 stopped: a loss or a parameter was not finite"
