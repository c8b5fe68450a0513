"""Rules that say when to freeze, and the command that says where they would have."""

import math
import re

import pytest

from experiments import freeze_advice
from experiments.runner import budget
from experiments.studies.freeze_rules import RULES
from seer_jax import train
from seer_jax.run.resolve import resolve
from tests.helpers.record_factories import write_run_dir
from tests.helpers.runs import compiled_once, only_error_line, tiny_config
from tests.helpers.runs import records as run_records

BY_NAME = {rule.name: rule for rule in RULES}


def signal(env_steps, half=0.2, previous=0.05, untrained=0.3, fit=0.9, fit_half=0.5, fit_untrained=0.4):
    return {
        "env_steps": env_steps,
        "drift_half": half,
        "drift_previous": previous,
        "drift_untrained": untrained,
        "fit": fit,
        "fit_half": fit_half,
        "fit_untrained": fit_untrained,
        "measure_seconds": 0.1,
    }


MOVING = [signal(1000 * i) for i in range(1, 9)]
# What each rule waits for, at the fifth signal and after it; that which needs three in a row says so at the seventh.
RESTING = {
    "settled 0.1": ({"half": 0.029}, 5),
    "settled 0.05": ({"half": 0.0149}, 5),
    "settled 0.2": ({"half": 0.059}, 5),
    "settled 0.4": ({"half": 0.119}, 5),
    "drift since half the age below 0.01": ({"half": 0.0099}, 5),
    "drift since half the age below 0.03": ({"half": 0.0299}, 5),
    "drift since the previous signal below 0.001, 3 times": ({"previous": 9e-4}, 7),
    "drift since the previous signal below 0.0003, 3 times": ({"previous": 2.9e-4}, 7),
    "half the age explains 0.8 of the values beyond chance, 3 times": ({"fit_half": 0.81}, 7),
    "half the age explains 0.9 of the values beyond chance, 3 times": ({"fit_half": 0.86}, 7),
}


def steps(total):
    """A run that is as long wherever it freezes."""
    return lambda step: total


@pytest.mark.parametrize(("share", "step"), [("0.05", 2000), ("0.1", 4000), ("0.2", 8000)])
def test_fixed_share_of_the_run_is_that_of_its_length(share, step):
    rule = BY_NAME[f"{share} of the run"]
    assert rule.decide(MOVING, steps(40_000)) == step
    # A run of one budget, in which an early step costs as much as three late ones.
    assert rule.decide(MOVING, lambda freeze: 30_000 - 2 * freeze) == {2000: 1364, 4000: 2500, 8000: 4286}[step]


@pytest.mark.parametrize("name", RESTING)
def test_rule_waits_for_an_encoder_that_rests(name):
    fields, number = RESTING[name]
    rests = [signal(1000 * i, **fields if i >= 5 else {}) for i in range(1, 9)]
    assert BY_NAME[name].decide(MOVING, steps(10_000)) is None
    assert BY_NAME[name].decide(rests, steps(10_000)) == 1000 * number
    moves_again = [*rests[: number - 2], signal(1000 * (number - 1)), *rests[number - 1 :]]
    later = BY_NAME[name].decide(moves_again, steps(10_000))
    assert later == (None if number == 7 else 5000)


@pytest.mark.parametrize(
    ("fields", "settled"),
    [
        ({"half": 0.0019, "untrained": 0.02}, True),
        ({"half": 0.0021, "untrained": 0.02}, False),
        ({"half": math.inf}, False),  # too young to have half an age
        ({"half": 0.0, "untrained": 0.0}, False),  # not trained at all
        ({"half": 1e-8, "untrained": 1e-6}, False),  # rounding
    ],
)
def test_encoder_settles_when_half_of_its_life_changed_little_of_it(fields, settled):
    assert BY_NAME["settled 0.1"].decide([signal(2000, **fields)], steps(10_000)) == (2000 if settled else None)


@pytest.mark.parametrize("latest", [0.1, 0.25])
@pytest.mark.parametrize("share", ["0.1", "0.2", "0.4"])
def test_rule_that_waits_for_a_share_of_the_run_at_most_is_the_earlier_of_both(share, latest):
    rule = BY_NAME[f"settled {share}, or {latest} of the run"]
    rests = [signal(1000 * i, half=0.029 if i >= 5 else 0.2) for i in range(1, 9)]
    assert rule.decide(rests, steps(8000 / latest)) == 5000
    assert rule.decide(rests, steps(3500 / latest)) == 4000
    assert rule.decide(MOVING, steps(8000 / latest)) == 8000


@pytest.mark.parametrize("rounding", [0.0, 1e-8, 1e-6])
def test_no_rule_but_fixed_shares_freezes_an_untrained_encoder(rounding):
    fits = {"fit": 0.4 + rounding, "fit_half": 0.4 + rounding, "fit_untrained": 0.4}
    untrained = [signal(1000 * i, rounding / 20, rounding / 20, rounding, **fits) for i in range(1, 9)]
    found = {rule.name: rule.decide(untrained, steps(50_000)) for rule in RULES}
    shares = {name for name in found if "of the run" in name and "0.25" not in name}  # which is past 8,000 agent steps
    assert {name for name, step in found.items() if step is not None} == shares


def test_encoder_of_another_run_that_rests_is_frozen_and_one_that_was_never_trained_is_not(fake_envs, tmp_path):
    def train_with(name, total, **changes):
        config = tiny_config(**changes, total_steps=total, seer__freeze_step=total - 20, checkpoint_every=0)
        train.run(config, tmp_path / name)
        found = [record for record in run_records(tmp_path / name) if record["kind"] == "signal"]
        return {BY_NAME[f"settled {share}"].decide(found, steps(10_000)) for share in (0.05, 0.1, 0.2, 0.4)}

    rests = {"total": 320, "agent__learning_rate": 1e-12, "seer__signal_every": 40}
    with compiled_once():
        train_with("source", total=200, agent__learning_rate=3e-3)
        assert train_with("untrained", **rests) == {None}
        (step,) = train_with("transferred", **rests, seer__init_from=str(tmp_path / "source"))
    assert 240 <= step < 282  # the first signal that is twice as old as the first one


def test_shadow_heads_decide_where_they_were_tried():
    tried = {"live_loss": 1.0, "shadow_loss": 1.2, "standard_error": 0.1}
    signals = [signal(1000), signal(2000) | tried, signal(3000), signal(4000) | tried | {"shadow_loss": 1.09}]
    rule = BY_NAME["shadow heads lose nothing"]
    assert rule.decide(signals, steps(10_000)) == 4000
    assert rule.decide(signals[:3], steps(10_000)) is None
    assert (rule.can_decide(signals), rule.can_decide(MOVING)) == (True, False)


def test_every_rule_is_tested():
    others = {name for name in BY_NAME if name.endswith("of the run")} | {"shadow heads lose nothing"}
    assert set(RESTING) | others == set(BY_NAME)


def test_rules_decide_only_by_what_runs_of_this_version_measure():
    measured = [{"env_steps": 1000, "drift_untrained": 0.2, "drift_half": 0.1, "measure_seconds": 0.1}]
    left = {name for name, rule in BY_NAME.items() if not rule.can_decide(measured)}
    assert left == {name for name in BY_NAME if "values" in name or "previous" in name or "shadow" in name}


def test_advice_names_the_step_and_the_saving_of_each_rule(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(budget, "macs_per_step", lambda config: (1e10, 2.5e9))
    config = resolve(tiny_config(seer__enabled=False, total_steps=400)).to_dict()
    lines = [
        {"kind": "signal", "env_steps": step, **signal(step, half=0.01 if step > 200 else 0.2)} for step in (100, 300)
    ]
    end = {"kind": "end", "env_steps": 400, "phase": "full"}
    write_run_dir(tmp_path / "runs" / "a", [*lines, end], config)
    write_run_dir(tmp_path / "runs" / "b", [end], config)
    other = {**config, "agent": {**config["agent"], "batch_size": 0}}
    write_run_dir(tmp_path / "runs" / "0", [*lines, end], other)
    assert freeze_advice.main(["freeze_advice", str(tmp_path / "runs")]) == 0
    printed, error = capsys.readouterr()
    assert "0 is left out: agent.batch_size=0 is out of range" in error
    assert "b has no signals; train it with seer.signal_every" in printed
    # Lines of the table depend on the encoding.
    (row,) = re.findall(r"^\W*settled 0\.1\s+\W\s+([\d,]+)\s+\W\s+([\d.]+)\s+\W\s+(\d+)%", printed, re.MULTILINE)
    # Learning begins at 80 of 400 agent steps. 100 of the 320 after it are taken frozen, at a quarter of the cost.
    assert row == ("300", "2.45", "23")


def test_advice_without_runs_is_refused(tmp_path, capsys):
    assert freeze_advice.main(["freeze_advice"]) == 2
    assert "RUN_DIR is missing" in only_error_line(capsys)
    assert freeze_advice.main(["freeze_advice", str(tmp_path / "none")]) == 2
    assert "does not exist" in only_error_line(capsys)
