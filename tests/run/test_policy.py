"""A trained agent that is loaded from the directory of its run."""

import jax
import numpy as np
import pytest

from seer_jax import files
from seer_jax.fields import ConfigError
from seer_jax.run import evaluation, policy
from tests.helpers.fake_env import FakeEnv
from tests.helpers.runs import tiny_config, write_run, write_untrained_run


class RecordingEnv(FakeEnv):
    """Keeps the frames that it sent and the actions that it received."""

    def __init__(self, lengths):
        super().__init__(lengths, training=False)
        self.sent, self.received = [], []

    def reset(self):
        self.sent.append(super().reset())
        return self.sent[-1]

    def step_some(self, action, running):
        self.received.append(np.asarray(action))
        self.sent.append(super().step_some(action, running))
        return self.sent[-1]


def test_policy_acts_as_an_evaluation_of_the_same_run(fake_envs, tmp_path):
    write_untrained_run(tmp_path / "run", tiny_config(agent__eval_epsilon=0.5, env__frame_stack=3))
    agent, params = policy.read_saved(tmp_path / "run").make_agent(fake_envs[0].action_spec)
    env = RecordingEnv([7, 12])  # the first environment begins a second episode
    act = evaluation.make_act(agent, first_stack="black")
    evaluation.play(act, params, env, jax.random.PRNGKey(0), frame_stack=3)
    loaded = policy.load_policy(tmp_path / "run")
    actions = [loaded(step.frame, step.first) for step in env.sent[:-1]]
    np.testing.assert_array_equal(actions, env.received)
    assert len(np.unique(actions)) > 1
    assert all(made.closed for made in fake_envs)


@pytest.mark.parametrize(("first_stack", "before_first"), [("black", 0), ("repeat", 31)])
def test_policy_puts_before_an_episode_what_its_run_did(fake_envs, tmp_path, monkeypatch, first_stack, before_first):
    write_untrained_run(tmp_path / "run", tiny_config(env__frame_stack=2, env__first_stack=first_stack))
    agent, params = policy.read_saved(tmp_path / "run").make_agent(fake_envs[0].action_spec)
    by_oldest_pixel = agent._replace(
        encode=lambda params, views: views[:, None, 0, 0, :], act_eval=lambda params, latents, key: latents[:, 0, 0]
    )
    monkeypatch.setattr(policy.SavedRun, "make_agent", lambda *args: (by_oldest_pixel, params))
    loaded = policy.load_policy(tmp_path / "run")
    frames = np.full((2, 1, 42, 42, 1), [[[[[31]]]], [[[[44]]]]], np.uint8)
    actions = [loaded(frame, first) for frame, first in zip(frames, ([True], [False]), strict=True)]
    assert [int(action[0]) for action in actions] == [before_first, 31]


def test_run_that_imports_foreign_code_is_not_loaded_without_its_configuration(tmp_path):
    write_run(tmp_path / "run", tiny_config())
    config = (tmp_path / "run" / "config.json").read_text()
    (tmp_path / "run" / "config.json").write_text(config.replace("data_efficient", "haiku:elsewhere:encoder"))
    with pytest.raises(ConfigError, match=r"imports code of yours, encoder\.name=haiku:elsewhere:encoder"):
        policy.load_policy(tmp_path / "run")


def test_run_without_parameters_of_its_agent_is_refused(fake_envs, tmp_path):
    write_run(tmp_path / "run", tiny_config(), params={"other": np.zeros(3)})
    with pytest.raises(files.DamagedFileError, match="the saved state has other parts"):
        policy.load_policy(tmp_path / "run")
