"""A tiny run that kills itself, as `kill -9` would, at the N-th of the moments that are worth it.

python -m tests.victim RUN_DIR N    # prints the number of moments if it lives to its end
"""

import os
import pathlib
import shutil
import signal
import sys

import numpy as np

from seer_jax import train
from seer_jax.envs import registry
from seer_jax.run import metrics
from seer_jax.seer import handover
from tests.fake_env import FakeEnv, make_env
from tests.runs import tiny_config

_MOMENTS = [
    (FakeEnv, "step"),
    (handover, "_read_rows"),
    (handover, "_load_chunk"),
    (metrics.MetricsWriter, "write"),
    (np, "savez"),
    (os, "fsync"),
    (pathlib.Path, "rename"),
    (pathlib.Path, "replace"),
    (shutil, "rmtree"),
]


def main(run_dir, die_at):
    registry.make_env = make_env
    moments = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal moments
            moments += 1
            if moments == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for owner, name in _MOMENTS:
        setattr(owner, name, counted(getattr(owner, name)))
    train.run(tiny_config(checkpoint_every=20), run_dir, resume=True)
    print("moments", moments)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
