"""A tiny run that kills itself, as `kill -9` would, at the N-th of the calls that touch files or the ring.

python -m tests.helpers.killed_run RUN_DIR N    # 0 never kills
"""

import os
import pathlib
import shutil
import signal
import sys

import numpy as np

from seer_jax import replay, train
from seer_jax.envs import registry
from seer_jax.run import metrics
from seer_jax.seer import handover
from tests.helpers.fake_env import FakeEnv, make_env
from tests.helpers.runs import tiny_config

_CALLS = [
    (FakeEnv, "step"),
    (replay, "read"),
    (handover, "_load_chunk"),
    (metrics.MetricsWriter, "write"),
    (np, "savez"),
    (os, "fsync"),
    (pathlib.Path, "rename"),
    (pathlib.Path, "replace"),
    (shutil, "rmtree"),
]


def config():
    return tiny_config(total_steps=240, learn_start=40, seer__freeze_step=120, checkpoint_every=20)


def main(run_dir, kill_at):
    registry.make_env = make_env
    calls = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for owner, name in _CALLS:
        setattr(owner, name, counted(getattr(owner, name)))
    train.run(config(), run_dir, resume=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
