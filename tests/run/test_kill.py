"""Real processes that are killed, and what is left of their runs."""

import os
import signal
import subprocess
import sys

import numpy as np

from seer_jax import train
from tests.helpers import killed_run
from tests.helpers.runs import fake_games, untimed

KILLS = int(os.environ.get("SEER_JAX_TEST_KILLS", "2"))  # of ten seconds each


def test_processes_killed_at_random_moments_leave_the_uninterrupted_run(tmp_path):
    """They are killed anywhere in steps, checkpoints, handover and metrics, and started again."""

    def start(name, kill_at):
        command = [sys.executable, "-m", "tests.helpers.killed_run", str(tmp_path / name), str(kill_at)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with fake_games():
        train.run(killed_run.config(), tmp_path / "whole")
    rng, kills, runs = np.random.default_rng(0), 0, 0
    while kills < KILLS:
        # At most two checkpoints before a kill; a process that ends its run is followed by another run.
        result = start(f"run{runs}", int(rng.integers(1, 60)))
        assert result.returncode in (0, -signal.SIGKILL), result.stderr
        if result.returncode:
            kills += 1
        else:
            assert untimed(tmp_path / f"run{runs}") == untimed(tmp_path / "whole")
            runs += 1
    end = start(f"run{runs}", 0)
    assert end.returncode == 0, end.stderr
    assert untimed(tmp_path / f"run{runs}") == untimed(tmp_path / "whole")
