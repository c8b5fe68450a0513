"""Whole runs compiled as users compile them, which the settings of `conftest.py` do not do."""

import os
import subprocess
import sys

import numpy as np
import pytest

from seer_jax import envs
from tests.helpers.runs import records

pytestmark = pytest.mark.as_users

SUITE_SETTINGS = (
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    "XLA_FLAGS",
)


def run_as_users(module, *arguments):
    """Runs a command in a process with the compilation settings that users have; returns its output."""
    environment = {name: value for name, value in os.environ.items() if name not in SUITE_SETTINGS}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def train_and_evaluate(run_dir, config, *overrides):
    """Trains through the freeze and evaluates; returns the records."""
    arguments = [f"--config={config}", f"--run_dir={run_dir}", *(f"--config.{override}" for override in overrides)]
    run_as_users("seer_jax.train", *arguments)
    lines = records(run_dir)
    end = lines[-1]
    assert (end["kind"], end["phase"]) == ("end", "frozen")
    assert end["frozen_flops_per_step"] < end["full_flops_per_step"]
    assert end["frozen_macs_per_step"] < end["full_macs_per_step"]
    for phase in ("full", "frozen"):
        lines_of_phase = [line for line in lines if line["kind"] == "train" and line["phase"] == phase]
        losses = [line["loss"] for line in lines_of_phase if "loss" in line]
        assert losses
        assert np.isfinite(losses).all()
    assert f"after {end['env_steps']:,} agent steps" in run_as_users("seer_jax.evaluate", f"--run_dir={run_dir}")
    return lines


def test_game_is_trained_through_the_freeze_and_evaluated(tmp_path):
    lines = train_and_evaluate(
        tmp_path / "run",
        "configs/rainbow_atari.py:quick",
        "total_steps=320",
        "learn_start=80",
        "log_every=40",
        "eval_episodes=1",
        "env.max_episode_steps=60",
        "replay.capacity=400",
        "seer.freeze_step=200",
    )
    assert lines[-1]["updates"] in range(236, 245, 4)


@pytest.mark.skipif(not envs.HAS_EGL, reason="this machine has no EGL to render with")
def test_control_task_is_trained_through_the_freeze_and_evaluated(tmp_path):
    lines = train_and_evaluate(
        tmp_path / "run",
        "configs/curl_dmc.py:quick",
        "total_steps=240",
        "learn_start=60",
        "log_every=30",
        "eval_episodes=1",
        "agent.batch_size=16",
        "agent.hidden=32",
        "replay.capacity=300",
        "seer.freeze_step=150",
    )
    full = next(line for line in lines if line["kind"] == "train" and line["phase"] == "full" and "loss" in line)
    assert {"critic_loss", "contrast_loss", "actor_loss", "temperature"} <= set(full)
