"""The algorithm and the environment of the tutorial, and the adapter of Gymnasium's environments."""

import json
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from configs import curl_dmc
from seer_jax import cli, evaluate, train
from seer_jax.agents.registry import AGENTS
from seer_jax.envs.gymnasium_suite import GymnasiumEnv, make_suite
from seer_jax.envs.registry import SUITES
from seer_jax.envs.timestep import InvalidTimeStepError
from seer_jax.run.resolve import ConfigError, resolve

DOCS = Path(__file__).parents[2] / "docs"
CONFIG = "--config=docs/tutorial/catch.py"


@pytest.fixture
def catch_config():
    """The tutorial's configuration; what its file registers is forgotten afterwards."""
    yield cli.read_config([CONFIG])
    del AGENTS["dqn"], SUITES["catch"]


class Counter(gymnasium.Env):
    """Episodes of 3 to 6 steps, of which every second is truncated; pixels hold the age and the last action."""

    def __init__(self, size=4, action_space=None):
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size, 1), np.uint8)
        self.action_space = action_space or gymnasium.spaces.Discrete(5)
        self._episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._age, self._end = 0, int(self.np_random.integers(3, 7))
        self._episode += 1
        return self._frame(9), {}

    def step(self, action):
        self._age += 1
        over, cut = self._age == self._end, self._episode % 2 == 0
        return self._frame(action), self._age / 10, over and not cut, over and cut, {}

    def _frame(self, action):
        frame = np.zeros(self.observation_space.shape, np.uint8)
        frame[0], frame[1] = self._age, action
        return frame


def test_vector_of_gymnasium_environments_equals_environments_stepped_one_by_one():
    seeds, rng = [3, 8], np.random.default_rng(0)
    together, alone = GymnasiumEnv(Counter, seeds), [Counter() for _ in seeds]
    step = together.reset()
    frames = [env.reset(seed=seed)[0] for env, seed in zip(alone, seeds, strict=True)]
    np.testing.assert_array_equal(step.frame, frames)
    assert step.first.all()
    assert not step.last.any()
    ended, kinds = [False, False], set()
    for _ in range(40):
        actions = rng.integers(5, size=2)
        step = together.step(actions)
        for i, env in enumerate(alone):
            if ended[i]:
                frame, reward, terminated, truncated = env.reset()[0], 0.0, False, False
            else:
                frame, reward, terminated, truncated, _ = env.step(actions[i])
            np.testing.assert_array_equal(step.frame[i], frame)
            assert step.reward[i] == step.score[i] == np.float32(reward)
            assert (step.terminated[i], step.truncated[i], step.first[i]) == (terminated, truncated, ended[i])
            ended[i] = terminated or truncated
            assert step.last[i] == ended[i]
            kinds.add((terminated, truncated))
    assert kinds == {(False, False), (True, False), (False, True)}
    assert step.frame.dtype == np.uint8
    assert step.reward.dtype == np.float32
    together.close()


BOX = gymnasium.spaces.Box(-1.0, 1.0, (2,))


class Sends(Counter):
    """Sends other observations than it declares, from a number of calls on."""

    def __init__(self, size, transform, calls=0):
        super().__init__(50)
        self._size, self._transform, self._calls = size, transform, calls

    def _frame(self, action):
        self._calls -= 1
        if self._calls >= 0:
            return super()._frame(action)
        return self._transform(np.zeros((self._size, self._size, 1), np.uint8))


def as_float(frame):
    return frame.astype(np.float32) / 255


class Declares(Counter):
    """Declares floats."""

    def __init__(self):
        super().__init__(50)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (50, 50, 1), np.float32)


@pytest.mark.parametrize(
    ("make", "discrete", "message"),
    [
        (lambda: Counter(size=60), True, r"observations are uint8 \(60, 60, 1\) and must be uint8 \(50, 50, 1\)"),
        (lambda: Counter(size=60), True, r"gymnasium\.wrappers\.ResizeObservation\(env, \(50, 50\)\)"),
        (
            Declares,
            True,
            r"are float32 .* must be uint8 .*; wrap it in gymnasium\.wrappers\.TransformObservation\(env, .*\(255 \*",
        ),
        (
            lambda: Sends(60, np.array),
            True,
            r"declares observations of uint8 \(50, 50, 1\) and sent a frame of uint8 \(60, 60, 1\); wrap it in"
            r" gymnasium\.wrappers\.ResizeObservation\(env, \(50, 50\)\)$",
        ),
        (
            lambda: Sends(50, as_float, calls=1),
            True,
            r"sent a frame of float32 \(50, 50, 1\); .*\.TransformObservation\(env, .* Box\(0, 255, \(50, 50, 1\), np",
        ),
        (
            lambda: Sends(50, lambda x: x[:, :, 0]),
            True,
            r"uint8 \(50, 50\); .*ReshapeObservation\(env, \(50, 50, 1\)\)",
        ),
        (lambda: Sends(50, lambda x: x.repeat(3, 2)), True, r"GrayscaleObservation\(env, keep_dim=True\)"),
        (lambda: Counter(50, gymnasium.spaces.Discrete(3, start=1)), True, "must be Discrete from 0 on"),
        (lambda: Counter(50, BOX), True, "must be Discrete"),
        (lambda: Counter(50, gymnasium.spaces.Box(0.0, 1.0, (2,))), False, "RescaleAction"),
        (lambda: Counter(50), False, "RescaleAction"),
    ],
)
def test_environment_that_does_not_fit_is_refused_with_a_fix(make, discrete, message, catch_config):
    with pytest.raises(ConfigError, match=message):
        make_suite({"catch": make}, channels=1, discrete_actions=discrete).check(resolve(catch_config).env)


@pytest.mark.parametrize("transform", [as_float, lambda frame: frame[:, :, 0]])
def test_observation_that_changes_during_a_run_raises_with_a_fix(transform):
    env = GymnasiumEnv(lambda: Sends(50, transform, calls=3), [0])
    env.reset()
    for _ in range(2):
        env.step(np.zeros(1, np.int32))
    with pytest.raises(
        InvalidTimeStepError, match=r"declares observations of uint8 \(50, 50, 1\) and sent .*wrap it in"
    ):
        env.step(np.zeros(1, np.int32))


def test_array_that_an_environment_writes_into_again_is_copied():
    class Reusing(Counter):
        def _frame(self, action):
            frame = super()._frame(action)
            self.sent = getattr(self, "sent", frame)
            self.sent[...] = frame
            return self.sent

    env = GymnasiumEnv(Reusing, [0, 1])
    before = env.reset().frame
    kept = before.copy()
    assert not np.array_equal(env.step(np.ones(2, np.int32)).frame, kept)
    np.testing.assert_array_equal(before, kept)


def test_task_that_a_suite_does_not_have_is_refused(catch_config):
    catch_config.env.task = "cetch"
    with pytest.raises(ConfigError, match=r"no task of this suite; did you mean catch\?"):
        resolve(catch_config)


def test_continuous_actions_are_vectors():
    class Sum(Counter):
        def step(self, action):
            assert action.shape == (2,)
            frame, _, *rest = super().step(0)
            return frame, float(action.sum()), *rest

    env = GymnasiumEnv(lambda: Sum(50, BOX), [0, 1])
    assert (env.action_spec.shape, env.action_spec.minimum, env.action_spec.maximum) == ((2,), -1.0, 1.0)
    env.reset()
    actions = np.array([[0.5, 0.25], [-1.0, 1.0]], np.float32)
    np.testing.assert_array_equal(env.step(actions).reward, [0.75, 0.0])
    env.close()


def test_algorithm_for_other_actions_is_refused_with_those_that_fit(catch_config):
    config = catch_config.unlock()
    config.agent = curl_dmc.get_config().agent
    with pytest.raises(ConfigError, match=r"needs continuous actions, .* use rainbow or dqn"):
        resolve(config)


def test_tutorial_trains_freezes_and_is_evaluated(catch_config, tmp_path, capsys):
    run_dir = tmp_path / "run"
    changes = ["total_steps=1000", "seer.freeze_step=800", "eval_every=500", "eval_episodes=4", "checkpoint_every=0"]
    arguments = [CONFIG, *(f"--config.{change}" for change in changes)]
    assert train.main(["train", f"--run_dir={run_dir}", *arguments]) == 0
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    end = lines[-1]
    assert (end["kind"], end["phase"], end["frozen_replay_capacity"]) == ("end", "frozen", 2 * 1000 + 24)
    assert end["frozen_macs_per_step"] < 0.1 * end["full_macs_per_step"]
    capsys.readouterr()
    assert evaluate.main(["evaluate", f"--run_dir={run_dir}", CONFIG]) == 0
    assert "catch after 1,000 agent steps" in capsys.readouterr().out


def test_code_on_the_page_is_the_code_that_runs():
    source = "".join(unindented(path.read_text()) for path in sorted((DOCS / "tutorial").glob("*.py")))
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "tutorial.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 7
    for block in blocks:
        assert unindented(block) in source, block


def unindented(code):
    return "".join(f"{line.strip()}\n" for line in code.splitlines() if line.strip())
