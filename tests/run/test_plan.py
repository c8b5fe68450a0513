"""The plan: what it says is what a run then does, and a run that cannot fit is refused with it."""

import numpy as np
import pytest

from seer_jax import train
from seer_jax.envs import registry
from seer_jax.run import assembly, plan
from seer_jax.run import resolve as config_lib
from seer_jax.seer import phases
from tests.helpers.fake_env import FakeEnv
from tests.helpers.runs import tiny_config


@pytest.fixture
def fake_env(monkeypatch):
    env = FakeEnv([7, 12], training=True)
    monkeypatch.setattr(registry, "make_env", lambda config, *, training, pool=0: env)
    monkeypatch.setattr(plan, "_CALIBRATION_SECONDS", 0.05)
    return env


def make_parts(env, **changes):
    config = config_lib.resolve(tiny_config(**changes))
    return assembly.assemble(config, env.action_spec)


def test_planned_bytes_are_those_of_the_arrays(fake_env):
    parts = make_parts(fake_env)
    for planned in plan.sizes(parts):
        ring = plan.replay.init(parts.spec(planned.phase), parts.rows(planned.phase))
        assert planned.ring_bytes == ring.num_bytes
        assert planned.ring_bytes >= planned.capacity * planned.observation_bytes
        assert planned.capacity == parts.spec(planned.phase).capacity


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {phases.FULL: 200, phases.FROZEN: 200}),
        ({"seer__enabled": False}, {phases.FULL: 400}),
    ],
)
def test_phases_and_their_steps(changes, expected):
    assert plan.phases_of(config_lib.resolve(tiny_config(**changes))) == expected


def test_an_encoder_frozen_from_the_start_has_one_phase():
    config = config_lib.resolve(tiny_config()).unlock()
    config.seer.freeze_step = 0
    assert plan.phases_of(config) == {phases.FROZEN: 400}


def test_show_prints_costs_of_both_phases_and_starts_nothing(fake_env, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    plan.show(config_lib.resolve(tiny_config()))
    shown = capsys.readouterr().out
    for text in ("full phase", "frozen phase", "MFLOP per agent step", "agent steps/s", "bfloat16", "time, without"):
        assert text in shown
    assert not list(tmp_path.iterdir())
    assert fake_env.closed


def test_measured_costs_fall_at_the_freeze(fake_env):
    parts = make_parts(fake_env)
    full, frozen = (plan.measure(parts, fake_env, planned) for planned in plan.sizes(parts))
    assert 0 < frozen.cost.macs < full.cost.macs
    assert min(full.steps_per_second, frozen.steps_per_second) > 0
    assert full.device_bytes == full.ring_bytes + full.state_bytes + full.temporary_bytes


def test_a_run_larger_than_the_device_is_refused_before_it_writes(fake_env, tmp_path, monkeypatch, capsys):
    needed = max(planned.device_bytes for planned in plan.sizes(make_parts(fake_env)))
    monkeypatch.setattr(plan, "device_memory", lambda: needed - 1)
    with pytest.raises(plan.DoesNotFit, match=r"lower replay\.capacity"):
        train.run(tiny_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert fake_env.closed
    monkeypatch.setattr(train.cli, "loaded", lambda config: tiny_config())
    assert train.main(["train", "--config=configs/rainbow_atari.py", f"--run_dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert "replay MB" in error
    assert "Traceback" not in error


def test_calibration_learns_as_often_as_training(fake_env, monkeypatch):
    parts = make_parts(fake_env)
    planned = plan.sizes(parts)[0]
    programs, calls = parts.compile(planned.phase), []
    counted = programs._replace(learn=lambda *args: calls.append(1) or programs.learn(*args))
    step, steps = fake_env.step, []
    monkeypatch.setattr(fake_env, "step", lambda action: steps.append(1) or step(action))
    plan._steps_per_second(parts, fake_env, planned.phase, counted)
    warm_up = 2 * parts.config.agent.n_step + parts.config.env.frame_stack
    updates, agent_steps = len(calls) * parts.updates_per_learn, (len(steps) - warm_up) * parts.config.num_envs
    np.testing.assert_allclose(updates, agent_steps, atol=2 * parts.config.num_envs)


@pytest.mark.parametrize(("text", "least"), [("12345\n", 12_345), ("max\n", None)])
def test_memory_of_a_container_is_what_it_may_use(monkeypatch, tmp_path, text, least):
    monkeypatch.setattr(plan, "_CONTAINER_LIMITS", ())
    machine = plan.device_memory()
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(plan, "_CONTAINER_LIMITS", (tmp_path / "memory.max", tmp_path / "nothing"))
    assert plan.device_memory() == (least or machine)
