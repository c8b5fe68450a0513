"""A tiny run that kills itself, as `kill -9` would, at the N-th of the calls that touch files, ring or environments.

python -m tests.helpers.killed_run RUN_DIR N TOTAL_STEPS    # 0 never kills
"""

import os
import pathlib
import shutil
import signal
import sys

import numpy as np

from seer_jax import files, replay, train
from seer_jax.envs import registry
from seer_jax.run import checkpoint, continuation, evaluation, metrics
from seer_jax.seer import handover
from tests.helpers.fake_env import FakeEnv, make_env
from tests.helpers.runs import tiny_config

_CALLS = [
    (FakeEnv, "step"),
    (replay, "read"),
    (handover, "_encode_chunk"),
    (checkpoint, "newest"),
    (continuation, "record_changes"),
    (evaluation, "play"),
    (files, "checksum"),
    (files, "load_tree"),
    (metrics.MetricsWriter, "__init__"),
    (metrics.MetricsWriter, "write"),
    (np, "load"),
    (np, "savez"),
    (os, "fsync"),
    (pathlib.Path, "rename"),
    (pathlib.Path, "replace"),
    (shutil, "rmtree"),
]


def config(total_steps):
    cadences = {"checkpoint_every": 20, "eval_every": 40, "keep_best": True}
    return tiny_config(total_steps=total_steps, learn_start=40, seer__freeze_step=120, **cadences)


def main(run_dir, kill_at, total_steps):
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
    train.run(config(total_steps), run_dir, resume=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
