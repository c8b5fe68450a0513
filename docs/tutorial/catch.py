"""Double DQN with SEER on Catch: an agent and an environment that seer_jax does not know by itself.

    python -m seer_jax.train --config=docs/tutorial/catch.py
    python -m seer_jax.evaluate --run_dir=runs/NAME --config=docs/tutorial/catch.py --video

A ball falls down a board; the paddle at its bottom is to be where it lands. Random play catches one in ten, which
returns -0.8 on average, and the best play catches all, which returns 1.
"""

import gymnasium
import numpy as np
from ml_collections import ConfigDict

from configs import rainbow_atari
from docs.tutorial import dqn
from seer_jax.agents.registry import AGENTS
from seer_jax.envs.gymnasium_suite import make_suite
from seer_jax.envs.registry import SUITES

_CELLS, _PIXELS = 10, 5  # of the board, each way, and of a cell


class Catch(gymnasium.Env):
    """Actions are left, stay and right; an episode ends as the ball arrives, with 1 or -1."""

    observation_space = gymnasium.spaces.Box(0, 255, (_CELLS * _PIXELS, _CELLS * _PIXELS, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._row, self._ball, self._paddle = 0, *self.np_random.integers(_CELLS, size=2)
        return self._frame(), {}

    def step(self, action):
        self._row += 1
        self._paddle = np.clip(self._paddle + action - 1, 0, _CELLS - 1)
        over = self._row == _CELLS - 1
        reward = (1.0 if self._paddle == self._ball else -1.0) if over else 0.0
        return self._frame(), reward, over, False, {}

    def _frame(self):
        board = np.zeros((_CELLS, _CELLS, 1), np.uint8)
        board[-1, self._paddle] = 128
        board[self._row, self._ball] = 255
        return board.repeat(_PIXELS, axis=0).repeat(_PIXELS, axis=1)


SUITES["catch"] = make_suite({"catch": Catch}, channels=1, discrete_actions=True)
AGENTS["dqn"] = dqn


def get_config() -> ConfigDict:
    config = rainbow_atari.get_config().unlock()  # for what all runs have
    config.agent = ConfigDict(
        dict(
            name="dqn",
            batch_size=32,
            n_step=1,
            discount=0.99,
            learning_rate=5e-4,
            hidden=64,
            target_update_every=200,
            epsilon=0.1,
        )
    )
    config.env = ConfigDict(
        dict(suite="catch", task="catch", frame_stack=2, action_repeat=1, image_size=50, crop_size=50)
    )
    config.update_from_flattened_dict(
        {
            "total_steps": 12_000,
            "learn_start": 500,
            "num_envs": 4,
            "log_every": 1000,
            "eval_every": 2000,
            "eval_episodes": 50,
            "checkpoint_every": 6000,
            "replay.capacity": 3000,
            "replay.grow_after_freeze": True,
            "seer.freeze_step": 6000,
        }
    )
    return config.lock()
