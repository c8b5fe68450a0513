"""Trains a run whose pictures are inverted from some agent step on: would a rule wait for the new ones?

python -m experiments.studies.changed_pictures --change_at=STEP --config=configs/rainbow_atari.py:baseline \\
    --config.seer.signal_every=1000 --run_dir=DIR                                   # further flags of seer_jax.train
python -m experiments.freeze_advice DIR

Nothing else changes: the game and its rewards are the same. The steps are those of one process, so that a run must not
be resumed.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from seer_jax import train
from seer_jax.envs import registry
from seer_jax.envs.timestep import TimeStep, VectorEnv


class Changed:
    """Environments whose pictures change.

    Args:
      env: the environments.
      steps: counts their agent steps if they are trained in, `[]`; shared with those of evaluations.
      training: whether they are trained in.
      change_at: agent steps of training from which on pictures are inverted.
    """

    def __init__(self, env: VectorEnv, steps: np.ndarray, *, training: bool, change_at: int) -> None:
        self._env, self._steps, self._training, self._change_at = env, steps, training, change_at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self) -> TimeStep:
        return self._changed(self._env.reset())

    def step(self, action: np.ndarray) -> TimeStep:
        return self._changed(self._env.step(action))

    def step_some(self, action: np.ndarray, running: np.ndarray) -> TimeStep:
        return self._changed(self._env.step_some(action, running))

    def _changed(self, timestep: TimeStep) -> TimeStep:
        if self._training:
            self._steps += np.count_nonzero(~timestep.first)
        return timestep._replace(frame=255 - timestep.frame) if self._steps >= self._change_at else timestep


def changing(make_env: Callable[..., VectorEnv], change_at: int) -> Callable[..., Any]:
    """Returns what makes environments as `make_env` does, whose pictures change.

    Args:
      make_env: as `registry.make_env`.
      change_at: agent steps of training from which on pictures are inverted.
    """
    steps = np.zeros((), np.int64)

    def make(config: Any, *, training: bool, **arguments: Any) -> Changed:
        return Changed(make_env(config, training=training, **arguments), steps, training=training, change_at=change_at)

    return make


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog=argv[0], description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--change_at", type=int, required=True)
    own, others = parser.parse_known_args(argv[1:])
    registry.make_env = changing(registry.make_env, own.change_at)
    return train.main([argv[0], *others])


if __name__ == "__main__":
    sys.exit(main(["changed_pictures", *sys.argv[1:]]))
