"""The regret of rules that say when to freeze."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from experiments.paper import freeze_time
from experiments.report import regret
from experiments.report.records import RecordsError
from experiments.report.regret import Judged
from tests.helpers.record_factories import make_records


def run_with(scores, task="krull", episodes=10):
    """A run with an evaluation each 100 steps, of 1e6 multiply-accumulates each."""
    run = make_records("arm", dict(zip(itertools.count(100, 100), scores, strict=False)), task=task)
    for line in run.lines:
        if line["kind"] == "eval":
            line["eval_returns"] = [line["eval_return_mean"]] * episodes
    return run


def test_score_is_that_of_the_last_fifth_of_the_budget():
    run = run_with([0, 0, 0, 0, 0, 0, 0, 100, 200, 600], task="finger-spin", episodes=10)
    # The budget is that of 1,000 steps: evaluations at 800, 900 and 1,000.
    assert regret.score(run, 1e9) == pytest.approx(0.3)
    krull = run_with([1598.0] * 9 + [2665.5], episodes=30)
    assert 0 < regret.score(krull, 1e9) < 1


def test_score_of_too_few_episodes_or_too_short_a_run_is_refused():
    run = run_with([1.0] * 10, episodes=9)
    with pytest.raises(RecordsError, match=r"27 episodes of evaluation in the last fifth of 1e\+09 .* 30 are needed"):
        regret.score(run, 1e9)
    with pytest.raises(RecordsError, match=r"ended before 1\.1e\+09 multiply-accumulates"):
        regret.score(run, 1.1e9)


FIXED = (5, 10, 20)
JUDGED = {
    ("krull", 0): Judged({5: 0.2, 10: 1.0, 20: 0.5, None: 0.4}, FIXED, {"rule": 20, "none": None}),
    ("krull", 1): Judged({5: 0.6, 10: 0.3, 20: 0.5, None: 0.4}, FIXED, {"rule": 5, "none": None}),
    ("qbert", 0): Judged({5: 0.1, 10: 0.2, 20: 0.4, 15: 0.6, None: 0.4}, FIXED, {"rule": 15, "none": None}),
    ("qbert", 1): Judged({5: 0.1, 10: 0.2, 20: 0.4, None: 0.4}, FIXED, {"rule": 20, "none": None}),
}


def test_regret_is_what_a_step_lost_against_the_best_fixed_one():
    assert JUDGED["krull", 0].regret(20) == pytest.approx(0.5)
    assert JUDGED["krull", 0].regret(None) == pytest.approx(0.6)
    assert JUDGED["qbert", 0].regret(15) == pytest.approx(-0.2)


def test_table_has_the_regret_of_every_fixed_step_and_rule():
    table = regret.regret_table("title", JUDGED, ["rule", "none"])
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.head[2:4] == ["regret, krull", "regret, qbert"]
    assert rows["5"][:3] == ["5", "0.400", "0.300"]
    assert rows["never"][:3] == ["4 never", "0.400", "0.000"]
    assert rows["never"][1:] == rows["none"][1:]
    assert rows["rule"][:3] == ["5 to 20", "0.250", "-0.100"]
    relative = np.median([0.5, 0.0, -0.5, 0.0])
    assert rows["rule"][3].startswith(f"{relative:.3f} [")
    assert rows["rule"][4].startswith("0.000 [")


def test_rule_that_other_tasks_choose_is_judged_by_the_task():
    scores = {5: 1.0, 10: 0.5, 20: 0.8, None: 0.0}
    judged = {
        (task, seed): Judged(scores, FIXED, {"early": early, "middle": 10, "late": 20, "missing": 7})
        for task, early in (("krull", 5), ("qbert", 5), ("alien", 10))
        for seed in (0, 1)
    }
    table = regret.left_out_table(judged, ["middle", "late", "early", "missing"])
    # The median of `late` over two tasks is 0.2, that of `early` 0 or (0 + 0.5) / 2.
    assert table.rows == [
        ["krull", "late", "0.200", "0.200"],
        ["qbert", "late", "0.200", "0.200"],
        ["alien", "early", "0.000", "0.500"],
    ]
    assert regret.left_out_table(judged, ["missing"]).rows == []


def test_fixed_steps_have_rows_only_where_they_are_the_same_everywhere():
    control = {("walker-walk", seed): Judged({2: 0.5, 3: 0.4, None: 0.2}, (2, 3), {"rule": 3}) for seed in (0, 1)}
    rows = {row[0]: row[1:] for row in regret.regret_table("title", JUDGED | control, ["rule"]).rows}
    assert list(rows) == ["never", "rule"]
    assert rows["rule"][:4] == ["3 to 20", "0.250", "-0.100", "0.100"]


def test_rule_without_a_run_at_its_step_has_no_regret():
    judged = {**JUDGED, ("krull", 1): dataclasses.replace(JUDGED["krull", 1], steps={"rule": 15, "none": None})}
    rows = {row[0]: row[1:] for row in regret.regret_table("title", judged, ["rule", "none"]).rows}
    assert rows["rule"] == ["15 to 20", "", "", "not tried: krull 1", ""]
    assert rows["none"][1] == "0.400"
    judged = {**JUDGED, ("qbert", 0): dataclasses.replace(JUDGED["qbert", 0], steps={"none": None})}
    rows = {row[0]: row[1:] for row in regret.regret_table("title", judged, ["rule"]).rows}
    assert rows["rule"] == ["5 to 20", "", "", "not tried: qbert 0", ""]


def control_run(label, seed, scores, signals=()):
    run = run_with(scores, task="cartpole-swingup", episodes=30)
    run.lines[:0] = [{"kind": "signal", "env_steps": step, **fields} for step, fields in signals]
    for line in run.lines:
        line["macs_total"] = 1.5e10 * line["env_steps"]  # 15T at the last evaluation
    seer = {**run.config["seer"], "signal_every": 500}
    config = run.config | {"seed": seed, "total_steps": 4600, "seer": seer}
    return dataclasses.replace(run, arm=label, config=config)


def control_runs(settled_at):
    """All runs of CURL at the scale cpu; the encoders of the trunks settle at a signal."""
    settled = [
        (1000, {"drift_untrained": 0.2}),
        (settled_at, {"drift_untrained": 0.2, "drift_half": 0.01}),
        (4500, {"drift_untrained": 0.2, "drift_half": 0.1}),
    ]
    runs = []
    for seed in (0, 1):
        runs.append(control_run("CURL, never frozen", seed, [0] * 9 + [600], settled))
        for freeze_step, score in ((2000, 200), (3000, 500), (4000, 400 + 200 * seed)):
            arm = control_run(f"CURL, frozen at {freeze_step:,}", seed, [0] * 9 + [score])
            arm.config["total_steps"] = 180_000 - 39 * freeze_step
            runs.append(arm)
    for line in (line for run in runs for line in run.of_kind("eval")[:-1]):
        line["macs_total"] = 0.0  # before the last fifth
    return runs


@pytest.mark.parametrize(
    ("settled_at", "step", "found"), [(2400, "2,000", "0.350"), (2600, "3,000", "0.050"), (4400, "2 never", "-0.050")]
)
def test_study_judges_tasks_of_which_all_fixed_steps_are_there(settled_at, step, found):
    runs = control_runs(settled_at)
    (table,) = freeze_time.tables("cpu", runs)
    rows = {row[0]: row for row in table.rows}
    assert rows["settled 0.1"][:3] == ["settled 0.1", step, found]  # of the arm that is nearest
    assert rows["2,000"][2] == "0.350"
    assert rows["never"][2] == "-0.050"
    assert freeze_time.tables("cpu", runs[1:]) == []


def test_rule_of_shadow_heads_needs_their_results_on_this_very_run(tmp_path, monkeypatch):
    runs = control_runs(3000)
    results = [
        {"env_steps": 1000, "live_loss": 1.0, "shadow_loss": 1.3, "standard_error": 0.2},
        {"env_steps": 3000, "live_loss": 1.0, "shadow_loss": 1.1, "standard_error": 0.2},
    ]
    found = {runs[0].name: {"params_sha256": "abc", "checkpoints": results}}
    monkeypatch.setattr(freeze_time, "_SHADOWS", tmp_path / "shadow_heads.json")
    freeze_time._SHADOWS.write_text(json.dumps(found))

    def row():
        (table,) = freeze_time.tables("cpu", runs)
        return next(row for row in table.rows if row[0] == "shadow heads lose nothing")

    assert row()[-2] == "not tried: cartpole-swingup 0, cartpole-swingup 1"
    runs[0].end["params_sha256"] = "abc"
    assert row()[1:2] + row()[-2:-1] == ["3,000", "not tried: cartpole-swingup 1"]


@pytest.mark.parametrize("signals", [0, 2])
def test_study_says_that_a_trunk_without_all_signals_cannot_be_judged(signals):
    runs = control_runs(3000)
    measured = runs[4].of_kind("signal")[:signals]
    runs[4].lines[:] = [*measured, *(line for line in runs[4].lines if line["kind"] != "signal")]
    (table,) = freeze_time.tables("cpu", runs)
    assert (table.rows, table.note.count(f"Unknown: {runs[4].name} did not measure signals up to its end")) == ([], 1)


def test_regret_is_no_share_of_a_score_of_nothing():
    nothing = {key: Judged(dict.fromkeys((*FIXED, None), 0.0), FIXED, {"rule": 5}) for key in JUDGED}
    rows = {row[0]: row[1:] for row in regret.regret_table("title", nothing, ["rule"]).rows}
    assert rows["rule"][3].startswith("0.000 [")
