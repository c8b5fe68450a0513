"""Real processes that are killed, and what is left of their runs."""

import os
import signal
import subprocess
import sys

import numpy as np

from tests.helpers.runs import untimed

KILLS = int(os.environ.get("SEER_JAX_TEST_KILLS", "2"))  # of ten seconds each


def test_kill_dash_nine_at_any_moment(tmp_path):
    """Processes that die, anywhere in steps, checkpoints, handover and metrics, leave the whole run behind."""

    def live(name, die_at):
        command = [sys.executable, "-m", "tests.helpers.killed_run", str(tmp_path / name), str(die_at)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    whole = live("whole", 0)
    assert whole.returncode == 0, whole.stderr
    moments = int(whole.stdout.split()[-1])
    rng, kills, runs = np.random.default_rng(0), 0, 0
    while kills < KILLS:
        # Lives of two checkpoints at most; a run that ends all the same is followed by another.
        result = live(f"run{runs}", int(rng.integers(1, moments // 10)))
        assert result.returncode in (0, -signal.SIGKILL), result.stderr
        if result.returncode:
            kills += 1
        else:
            assert untimed(tmp_path / f"run{runs}") == untimed(tmp_path / "whole")
            runs += 1
    end = live(f"run{runs}", 0)
    assert end.returncode == 0, end.stderr
    assert untimed(tmp_path / f"run{runs}") == untimed(tmp_path / "whole")
