"""Studies: scores of open-loop policies, analysis of encoders, durability."""

import dataclasses
import itertools
import types
from typing import Any

import numpy as np
import pytest
from dm_env import specs

from experiments.report import records as records_lib
from experiments.studies import changed_pictures, durability, encoder_analysis, open_loop, shadow_heads
from seer_jax import replay, train
from seer_jax.run.resolve import resolve
from tests.helpers import fake_env
from tests.helpers.record_factories import make_line, write_run_dir
from tests.helpers.rings import empty_ring, random_rows
from tests.helpers.runs import only_error_line, tiny_config


def test_open_loop_policies_of_discrete_actions_are_random_and_constant():
    env = fake_env.FakeEnv([3, 5], num_actions=2)
    found = dict(open_loop.policies(env.action_spec, env.num_envs, np.random.default_rng(0)))
    assert list(found) == ["random", "always 0", "always 1"]
    np.testing.assert_array_equal(found["always 1"](), [1, 1])


def test_open_loop_policies_of_continuous_actions_are_random_and_zero():
    action_spec = specs.BoundedArray((3,), np.float32, -1, 1)
    found = dict(open_loop.policies(action_spec, 2, np.random.default_rng(0)))
    assert list(found) == ["random", "no force"]
    assert found["random"]().shape == (2, 3)
    np.testing.assert_array_equal(found["no force"](), np.zeros((2, 3)))


def test_score_of_a_policy_is_that_of_one_episode():
    env = fake_env.FakeEnv([3, 5], num_actions=2)
    np.testing.assert_array_equal(open_loop.play(env, lambda: np.zeros(2, int)), [30, 50])


def test_open_loop_command_without_a_configuration_is_refused(capsys):
    assert open_loop.main(["open_loop"]) == 2
    assert "--config=FILE is missing" in capsys.readouterr().err


def test_memory_growth_is_the_slope_of_the_later_half():
    samples = [(0.0, 0), (900.0, 10**9), (1800.0, 500), (3600.0, 600)]
    assert durability.growth_per_hour(samples) == pytest.approx(200.0)


def test_untimed_lines_are_equal_for_runs_that_differ_in_speed(tmp_path):
    for name, speed in (("a", 7.0), ("b", 8.0)):
        line = make_line("end", 1, 2.0, seconds=speed, full_steps_per_second=speed)
        write_run_dir(tmp_path / name, [line])
    first, second = (durability.untimed_lines(tmp_path / name) for name in ("a", "b"))
    assert first == second
    assert first[0]["eval_return_mean"] == 2.0


def test_similarity_of_layers_is_one_from_the_freeze_on_and_less_before(fake_envs, tmp_path):
    train.run(tiny_config(params_every=100, num_envs=1), tmp_path / "run")  # freezes at 200
    copies = encoder_analysis.load_params(tmp_path / "run")
    assert list(copies) == [0, 100, 200, 300, 400]
    rollout = encoder_analysis.collect_rollout(tmp_path / "run", copies[400], 300)
    assert len(rollout.views) == len(rollout.actions) == 300
    layers = encoder_analysis.make_layers(tmp_path / "run")
    similarity = encoder_analysis.similarities(copies, layers, rollout)
    assert [step for step, _ in similarity["encoder/conv2"]] == [0, 100, 200, 300]
    values = [value for _, value in similarity["encoder/conv2"]]
    assert values[2:] == pytest.approx([1.0, 1.0])
    assert values[1] < 1.0 - 1e-6
    assert similarity["heads/logits"][3][1] < 1.0 - 1e-6
    untrained = encoder_analysis.untrained_params(tmp_path / "run")
    compared = encoder_analysis.similarities({0: copies[400], 1: untrained}, layers, rollout)
    assert 0.0 < compared["heads/logits"][0][1] < 1.0 - 1e-6


def test_pictures_change_in_training_and_evaluation_after_a_step():
    config = resolve(tiny_config())
    make = changed_pictures.changing(fake_env.make_env, change_at=3)
    env, plain = make(config, training=True), fake_env.make_env(config, training=True)
    frames = [(env.reset().frame, plain.reset().frame)]
    action = np.zeros(env.num_envs, np.int32)
    frames += [(env.step(action).frame, plain.step(action).frame) for _ in range(3)]
    changed = [bool((here == 255 - there).all()) for here, there in frames]
    assert changed == [False, False, True, True]  # two environments: the fourth step is the first that shows it
    assert [bool((here == there).all()) for here, there in frames] == [True, True, False, False]
    evaluation, expected = make(config, training=False).reset(), fake_env.make_env(config, training=False).reset()
    np.testing.assert_array_equal(evaluation.frame, 255 - expected.frame)


def test_shadow_heads_that_do_not_learn_lose_nothing(fake_envs, tmp_path):
    """With a learning rate of almost 0 both agents stay as they are, and so do their losses."""
    config = tiny_config(
        total_steps=200, seer__enabled=False, checkpoint_every=0, checkpoint_at=(120, 160), agent__learning_rate=1e-12
    )
    train.run(config, tmp_path / "run")
    (first, second) = shadow_heads.compare(tmp_path / "run", updates=2)
    assert 120 <= first["env_steps"] < 122
    assert 160 <= second["env_steps"] < 162
    assert first["shadow_loss"] == pytest.approx(first["live_loss"], rel=1e-4)
    assert first["standard_error"] < 1e-3
    file = tmp_path / "results.json"
    assert shadow_heads.main(["shadow_heads", str(tmp_path / "run"), "--updates=2", f"--json={file}"]) == 0
    run = records_lib.read(tmp_path / "run")
    assert shadow_heads.results_of(run, file) == [first, second]
    assert shadow_heads.results_of(dataclasses.replace(run, name="other"), file) == []
    assert shadow_heads.results_of(run, tmp_path / "none.json") == []


def test_shadow_heads_are_tested_on_rows_that_came_later_also_in_a_ring_that_lost_rows():
    spec = replay.RingSpec(num_steps=12, num_envs=2, stack=2, n_step=1, discount=0.9)
    ring, rings = empty_ring(spec), []
    for row in itertools.islice(random_rows(np.random.default_rng(0), spec.num_envs), 20):
        ring = replay.add(spec, ring, row)
        rings.append(ring)
    parts: Any = types.SimpleNamespace(full=types.SimpleNamespace(ring_spec=spec))
    later = shadow_heads._only_after(parts, rings[19], rings[14])
    begin = replay.oldest(spec, later)
    _, priorities = replay.read(spec, later, begin, replay.size(spec, later))
    drawn = begin + np.flatnonzero(np.asarray(priorities).any(axis=1))
    assert begin == 8  # times 8 to 19 are left, of which those up to 14 were there before
    assert set(drawn) <= {17, 18, 19}
    assert len(drawn) > 0


def test_shadow_heads_need_two_checkpoints_and_uniform_replay(fake_envs, tmp_path, capsys):
    train.run(tiny_config(total_steps=200, seer__enabled=False, checkpoint_every=0), tmp_path / "run")
    capsys.readouterr()
    assert shadow_heads.main(["shadow_heads", str(tmp_path / "run")]) == 2
    assert "has 1 checkpoints of the full phase, and two are needed" in only_error_line(capsys)
