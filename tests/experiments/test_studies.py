"""Studies: scores of open-loop policies, analysis of encoders, durability."""

import numpy as np
import pytest
from dm_env import specs

from experiments.studies import durability, encoder_analysis, open_loop
from seer_jax import train
from tests.helpers import fake_env
from tests.helpers.record_factories import make_line, write_run_dir
from tests.helpers.runs import tiny_config


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
