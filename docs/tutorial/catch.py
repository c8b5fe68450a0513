"""Double DQN with SEER on Catch: an algorithm and an environment that are not part of seer_jax.

    python -m seer_jax.train --config=docs/tutorial/catch.py
    python -m seer_jax.evaluate --run_dir=runs/NAME --config=docs/tutorial/catch.py --video

A ball falls down a board, and a paddle at the bottom must be where it lands. Random play catches one ball in ten and
returns -0.8 on average; the best play catches every ball and returns 1.

Expected: the first command takes 1 to 2 minutes on 2 cores. From 6,000 agent steps on it returns 1.0.
"""

from typing import Any

import gymnasium
import numpy as np
from ml_collections import ConfigDict

from docs.tutorial import dqn
from seer_jax.agents.registry import AGENTS
from seer_jax.envs.gymnasium_suite import make_suite
from seer_jax.envs.registry import SUITES
from seer_jax.run.resolve import default_config

_CELLS, _PIXELS = 10, 5  # cells of the board in each direction, and pixels of a cell


class Catch(gymnasium.Env):
    """Actions are left, stay and right. An episode ends as the ball arrives, with the reward 1 or -1."""

    observation_space = gymnasium.spaces.Box(0, 255, (_CELLS * _PIXELS, _CELLS * _PIXELS, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._row, self._ball, self._paddle = 0, *self.np_random.integers(_CELLS, size=2)
        return self._frame(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._row += 1
        self._paddle = np.clip(self._paddle + action - 1, 0, _CELLS - 1)
        over = self._row == _CELLS - 1
        reward = (1.0 if self._paddle == self._ball else -1.0) if over else 0.0
        return self._frame(), reward, over, False, {}

    def _frame(self) -> np.ndarray:
        board = np.zeros((_CELLS, _CELLS, 1), np.uint8)
        board[-1, self._paddle] = 128
        board[self._row, self._ball] = 255
        return board.repeat(_PIXELS, axis=0).repeat(_PIXELS, axis=1)


SUITES["catch"] = make_suite({"catch": Catch}, channels=1, discrete_actions=True)
AGENTS["dqn"] = dqn.DQN


def get_config() -> ConfigDict:
    config = default_config(suite="catch", agent="dqn")
    config.update(
        {
            "total_steps": 12_000,
            "learn_start": 500,
            "num_envs": 4,
            "eval_every": 2000,
            "eval_episodes": 50,
            "checkpoint_every": 6000,
            "env": {"task": "catch", "frame_stack": 2, "image_size": 50, "crop_size": 50},
            "replay": {"capacity": 3000, "grow_after_freeze": True},
            "seer": {"freeze_step": 6000},
        }
    )
    return config.lock()
