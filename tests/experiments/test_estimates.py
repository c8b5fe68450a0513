"""What compilers say of programs of several seeds, in a table, and when nothing is said."""

import json
import sys

import pytest

from experiments.benchmark import estimates, estimates_table
from seer_jax.run import targets

ALONE = {
    "target": "tpu-v5e",
    "agent": "rainbow",
    "phase": "full",
    "num_seeds": 1,
    "compiled": True,
    "device_bytes": 5e6,
    "interact_steps": 1,
    "learn_steps": 2,
    "interact_moved_bytes": 1e6,
    "learn_moved_bytes": 2e6,
    "interact_launches": None,
    "learn_launches": None,
    "optimal_steps_per_second": 1234.0,
}
FOUR = ALONE | {"num_seeds": 4, "interact_steps": 4, "learn_steps": 8, "learn_moved_bytes": 6e6}
FOUR |= {"optimal_steps_per_second": None}


@pytest.fixture
def tpu():
    target = targets.TARGETS["tpu-v5e"]
    if target.missing:
        pytest.skip(f"no compiler for it: {target.missing}")
    return target


def test_table_has_the_gain_of_several_seeds_and_leaves_out_what_is_unknown():
    too_large = FOUR | {"num_seeds": 8, "device_bytes": None, "learn_moved_bytes": None}
    not_compiled = {name: ALONE[name] for name in ("target", "agent", "phase")} | {"num_seeds": 16, "compiled": False}
    header, _, *rows = estimates_table.table([ALONE, FOUR, too_large, not_compiled]).splitlines()
    assert header == "| agent | phase | seeds | memory MB | moved MB | agent steps/s, at most | gain by bytes |"
    assert rows == [
        "| rainbow | full | 1 | 5 | 1.0 / 2.0 | 1,234 | 1.00 |",
        "| rainbow | full | 4 | 5 | 1.0 / 6.0 | unknown | 2.00 |",  # 2 MB an agent step alone, 0.25 + 0.75 of four
        "| rainbow | full | 8 | too large | 1.0 / unknown | unknown | unknown |",
        "| rainbow | full | 16 | not compiled | unknown | unknown | unknown |",
    ]


def test_command_compiles_both_agents_and_phases_and_writes_what_it_prints(monkeypatch, tmp_path, capsys):
    def estimate(target, agent, phase, num_seeds):
        names = ("target", "agent", "phase", "num_seeds")
        return None if agent == "curl" else {name: value for name, value in FOUR.items() if name not in names}

    monkeypatch.setattr(targets, "find", lambda name: targets.TARGETS[name])
    monkeypatch.setattr(estimates, "use_synthetic_suites", lambda: None)
    monkeypatch.setattr(estimates, "estimate", estimate)
    file = tmp_path / "estimates.json"
    assert estimates.main(["estimates", "--target=h100", "--target=tpu-v5e", "--seeds=1,4", f"--json={file}"]) == 0
    records = json.loads(file.read_text())
    assert len(records) == 2 * 2 * 2 * 2
    assert [record["target"] for record in records] == ["h100"] * 8 + ["tpu-v5e"] * 8
    assert {record["agent"] for record in records if record["compiled"]} == {"rainbow"}
    assert capsys.readouterr().out.count("not compiled") == 8


@pytest.mark.parametrize("seeds", ["0", "1,two", "-1"])
def test_unusable_numbers_of_seeds_are_refused_in_one_line(seeds, capsys):
    assert estimates.main(["estimates", f"--seeds={seeds}"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"estimates: --seeds={seeds} is not a list of numbers of seeds such as 1,2,4"
    )


def test_estimate_needs_no_envpool(tpu, monkeypatch, tmp_path):
    (tmp_path / "envpool.py").write_text("raise ImportError('EnvPool was imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])  # which a spawned process takes over
    record = estimates.estimate(tpu, "rainbow", "frozen", 2)
    assert record["compiled"]
    assert record["replay_rows"] == 100_000
    assert (record["interact_steps"], record["learn_steps"]) == (2, 2)
    assert record["interact_temporary_bytes"] < 0.02 * record["replay_bytes"]
    assert estimates_table.cost_per_step(record, "moved_bytes") > 0


def test_program_that_takes_too_long_is_not_compiled(tpu, monkeypatch):
    monkeypatch.setattr(estimates, "_LIMIT_SECONDS", 1)
    assert estimates.estimate(tpu, "rainbow", "frozen", 1) is None
