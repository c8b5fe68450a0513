"""An environment without a game, whose frames say which environment, episode and time they belong to."""

import numpy as np
from dm_env import specs

from seer_jax.envs.registry import SUITES
from seer_jax.envs.timestep import TimeStep


class FakeEnv:
    """Episodes of fixed lengths that end by turns in truncation and in termination.

    Environment i plays episodes of `lengths[i]` steps. Even episodes are truncated, odd ones terminate, and
    half way lose a life, which terminates in training alone. Every step scores 10. Pixels hold the number of the step
    since the environment was built, so that neighbouring frames are never alike; they differ by pool.

    Args:
      lengths: agent steps of the episodes of each environment.
      size: height and width of a frame, in pixels.
      channels: of a frame.
      num_actions: number of discrete actions.
      action_size: size of continuous actions; None for discrete ones.
      training: whether the loss of a life terminates, and rewards are clipped.
      pool: as `registry.make_env` has it.
    """

    def __init__(self, lengths, *, size=42, channels=1, num_actions=3, action_size=None, training=True, pool=0):
        self.num_envs, self.action_spec = len(lengths), specs.DiscreteArray(num_actions)
        if action_size is not None:
            self.action_spec = specs.BoundedArray((action_size,), np.float32, -1.0, 1.0)
        self.frame_shape = (size, size, channels)
        self._lengths, self._training, self._pool = np.asarray(lengths), training, pool
        self.closed = False

    def reset(self):
        self._step = 0
        self._age = np.zeros(self.num_envs, int)
        self._episode = np.zeros(self.num_envs, int)
        self._over = np.zeros(self.num_envs, bool)
        zeros, false = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool)
        return TimeStep(self._frame(), zeros, zeros, false, false, false, ~false)

    def step(self, action):
        first = self._over
        self._step += 1
        self._age = np.where(first, 0, self._age + 1)
        last = self._age == self._lengths
        truncated = last & (self._episode % 2 == 0)
        life = (self._age == self._lengths // 2) & (self._episode % 2 == 1) & self._training
        terminated = (last & ~truncated) | life
        score = np.where(first, 0, 10).astype(np.float32)
        reward = np.clip(score, -1, 1) if self._training else score
        self._episode += last
        self._over = last
        return TimeStep(self._frame(), reward, score, terminated, truncated, last, first)

    def close(self):
        self.closed = True

    def _frame(self):
        ids = np.arange(self.num_envs)[:, None, None, None]
        shape = (self.num_envs, *self.frame_shape)
        frame = np.broadcast_to((self._step * 7 + ids * 31 + self._pool * 13) % 256, shape).astype(np.uint8)
        frame[:, : self.num_envs] = ids
        return frame


def make_env(config, *, training, pool=0):
    """Replaces `registry.make_env`."""
    suite = SUITES[config.env.suite]
    return FakeEnv(
        [7, 12, 5, 9][: config.num_envs if training else config.eval_episodes],
        size=config.env.image_size,
        channels=suite.channels,
        action_size=None if suite.discrete_actions else 2,
        training=training,
        pool=pool,
    )
