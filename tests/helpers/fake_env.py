"""An environment without a game, whose frames say which environment, episode and time they belong to."""

import numpy as np
from dm_env import specs

from seer_jax.envs.registry import SUITES
from seer_jax.envs.timestep import TimeStep


class FakeEnv:
    """Episodes of fixed lengths that end by turns in truncation and in termination.

    Environment i plays episodes of `lengths[i]` steps. Even episodes are truncated, odd ones terminate, and
    half way lose a life, which terminates in training alone. Every step scores 10. Pixels hold the number of the step
    since the environment was built, so that neighbouring frames are never alike; they differ by pool and seed.

    Args:
      lengths: agent steps of the episodes of each environment of the seed.
      size: height and width of a frame, in pixels.
      channels: of a frame.
      num_actions: number of discrete actions.
      action_size: size of continuous actions; None for discrete ones.
      training: whether the loss of a life terminates, and rewards are clipped.
      pool: an item of `pools` of `registry.make_env`.
      seed: seed of the run.
      lanes: numbers of these environments among those of their seed; None stands for all.
    """

    def __init__(
        self,
        lengths,
        *,
        size=42,
        channels=1,
        num_actions=3,
        action_size=None,
        training=True,
        pool=0,
        seed=0,
        lanes=None,
    ):
        self._ids, self._num_ids = np.arange(len(lengths)) if lanes is None else np.asarray(lanes), len(lengths)
        lengths = np.asarray(lengths)[self._ids]
        self.num_envs, self.action_spec = len(lengths), specs.DiscreteArray(num_actions)
        if action_size is not None:
            self.action_spec = specs.BoundedArray((action_size,), np.float32, -1.0, 1.0)
        self.frame_shape = (size, size, channels)
        self._lengths, self._training, self._pool, self._seed = np.asarray(lengths), training, pool, seed
        self.closed = False

    def reset(self):
        self.steps = np.zeros(self.num_envs, int)
        self._age = np.zeros(self.num_envs, int)
        self._episode = np.zeros(self.num_envs, int)
        self._over = np.zeros(self.num_envs, bool)
        zeros, false = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool)
        return TimeStep(self._frame(), zeros, zeros, false, false, false, ~false)

    def step(self, action):
        return self.step_some(action, np.ones(self.num_envs, bool))

    def step_some(self, action, running):
        """The values of environments that are not stepped are those that do most harm where they are used."""
        first = self._over
        self.steps += running
        self._age = np.where(running, np.where(first, 0, self._age + 1), self._age)
        last = self._age == self._lengths
        truncated = last & (self._episode % 2 == 0)
        life = (self._age == self._lengths // 2) & (self._episode % 2 == 1) & self._training
        terminated = (last & ~truncated) | life
        score = np.where(first, 0, 10).astype(np.float32)
        reward = np.clip(score, -1, 1) if self._training else score
        self._episode += last & running
        self._over = np.where(running, last, self._over)
        frame, number, other = self._frame(), np.float32(np.nan), ~running
        frame[other] = 255
        reward, score = (np.where(running, x, number) for x in (reward, score))
        return TimeStep(frame, reward, score, terminated | other, truncated | other, last | other, first | other)

    def close(self):
        self.closed = True

    def _frame(self):
        ids, steps = (x[:, None, None, None] for x in (self._ids, self.steps))
        shape = (self.num_envs, *self.frame_shape)
        offset = self._pool * 13 + self._seed * 17
        frame = np.broadcast_to((steps * 7 + ids * 31 + offset) % 256, shape).astype(np.uint8)
        frame[:, : self._num_ids] = ids
        return frame


class FakeEnvs:
    """The environments of several seeds, each of which has those that it has alone.

    Args:
      envs: a `FakeEnv` of each seed.
    """

    def __init__(self, envs):
        self.envs, self.num_envs = envs, sum(env.num_envs for env in envs)
        self.action_spec, self.frame_shape = envs[0].action_spec, envs[0].frame_shape

    def reset(self):
        return self._join(env.reset() for env in self.envs)

    def step(self, action):
        return self._join(env.step(mine) for env, mine in zip(self.envs, self._split(action), strict=True))

    def step_some(self, action, running):
        parts = zip(self.envs, self._split(action), self._split(running), strict=True)
        return self._join(env.step_some(mine, goes) for env, mine, goes in parts)

    def close(self):
        for env in self.envs:
            env.close()

    @property
    def closed(self):
        return all(env.closed for env in self.envs)

    def _split(self, x):
        return np.split(x, len(self.envs))

    def _join(self, steps):
        return TimeStep(*map(np.concatenate, zip(*steps, strict=True)))


def make_env(config, *, training, pools=(0,), lanes=None):
    """Replaces `registry.make_env`. Episodes of neighbouring seeds have other lengths."""
    suite = SUITES[config.env.suite]
    num_envs = config.num_envs if training else config.eval_episodes
    envs = [
        FakeEnv(
            np.roll([7, 12, 5, 9], -seed)[:num_envs],
            size=config.env.image_size,
            channels=suite.channels,
            action_size=None if suite.discrete_actions else 2,
            training=training,
            pool=pool,
            seed=seed,
            lanes=None if lanes is None else [lane % num_envs for lane in lanes if lane // num_envs == run],
        )
        for run, (seed, pool) in enumerate(zip(range(config.seed, config.seed + len(pools)), pools, strict=True))
        if lanes is None or any(lane // num_envs == run for lane in lanes)
    ]
    return envs[0] if len(envs) == 1 else FakeEnvs(envs)
