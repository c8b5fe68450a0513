"""Real processes that are killed, and what is left of their runs."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from seer_jax import train
from seer_jax.run import checkpoint
from tests.helpers import killed_run
from tests.helpers.runs import fake_games, unsized, untimed, untimed_record

KILLS = int(os.environ.get("SEER_JAX_TEST_KILLS", "2"))  # of ten seconds each
LATE = 150  # calls that a process makes until its second checkpoint, at least
EARLY = 30  # calls that a process makes until it has resumed a run, or begun to extend it
STEPS = (160, 240)  # agent steps at which a run ends at first, and after it was extended


def start(run_dir, kill_at, total_steps):
    """Starts the run, or resumes or extends it; returns whether the process was killed."""
    command = [sys.executable, "-m", "tests.helpers.killed_run", str(run_dir), str(kill_at), str(total_steps)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode in (0, -signal.SIGKILL), result.stderr
    return result.returncode != 0


def assert_nothing_lost(run_dir, whole, env_steps):
    """Its newest checkpoint is whole and not before `env_steps`, and its records up to there are those of `whole`.

    Returns:
      The agent steps of the newest checkpoint.
    """
    saved = checkpoint.newest(run_dir / checkpoint.DIRECTORY, pytest.fail)
    if saved is None:
        assert env_steps == 0
        return 0
    content = (run_dir / "metrics.jsonl").read_bytes()[: saved.progress["metrics_bytes"]]
    lines = [untimed_record(json.loads(line)) for line in content.splitlines()]
    assert unsized(lines) == unsized(whole[: len(lines)])
    assert saved.progress["env_steps"] >= env_steps
    return saved.progress["env_steps"]


def test_processes_killed_at_random_moments_leave_the_uninterrupted_run(tmp_path):
    """They are killed anywhere in steps, evaluations, checkpoints, handover, resume and extension."""
    with fake_games():
        train.run(killed_run.config(STEPS[-1]), tmp_path / "whole")
    whole = untimed(tmp_path / "whole")
    rng, kills, runs = np.random.default_rng(0), 0, 0
    while kills < KILLS:
        run_dir, done = tmp_path / f"run{runs}", 0
        for total_steps in STEPS:
            killed, high = True, EARLY
            for _ in range(min(3, (KILLS + 1) // 2)):
                if killed := start(run_dir, int(rng.integers(1, high)), total_steps):
                    kills += 1
                done, high = assert_nothing_lost(run_dir, whole, done), LATE
            if killed:
                start(run_dir, 0, total_steps)
        assert unsized(untimed(run_dir)) == unsized(whole)
        runs += 1
    print(f"{kills} kills of {runs} runs")
