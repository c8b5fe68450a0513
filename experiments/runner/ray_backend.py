"""Trains runs as tasks of a Ray cluster, or of a local Ray instance if RAY_ADDRESS is not set."""

import os
import pathlib
import signal
import subprocess
import warnings
from collections.abc import Sequence

from experiments.runner.display import PoolDisplay
from experiments.runner.process import ROOT, Outcome, log_path, read_outcome
from experiments.runner.spec import Run

_POLL_SECONDS = 1.0


def train(runs: Sequence[Run], out: pathlib.Path, workers: int | None, display: PoolDisplay) -> dict[str, Outcome]:
    """Trains the runs and returns how each ended, by name.

    Args:
      runs: with different names.
      out: directory that holds `runs/`; all machines of the cluster must share it.
      workers: number of cores of a local instance; None takes those of this machine.
      display: shows the runs; those whose output has begun count as running.
    """
    import ray  # an extra requirement
    import ray.exceptions

    out = out.absolute()  # workers have other working directories

    @ray.remote(num_cpus=1, max_retries=-1)
    def train_run(run: Run) -> Outcome:
        log = log_path(run, out)
        with log.open("w") as f:
            done = subprocess.run(run.command(out), stdout=f, stderr=subprocess.STDOUT, check=False, cwd=ROOT)
        return read_outcome(done.returncode, log)

    before = signal.getsignal(signal.SIGTERM)
    try:
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS")
            with warnings.catch_warnings():
                # JAX warns of children that go on as this process. Ray's execute another program at once.
                warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
                ray.init(address=address, num_cpus=None if address else workers)
        # A run that needs more memory than any machine has is tried on the largest, as the local backend tries it
        # alone.
        largest = int(max(node["Resources"].get("memory", 0.0) for node in ray.nodes()))
        pending: dict[ray.ObjectRef, Run] = {}
        outcomes: dict[str, Outcome] = {}
        for run in runs:
            log_path(run, out).unlink(missing_ok=True)  # that of an earlier attempt
            pending[train_run.options(memory=min(run.estimate_memory(), largest)).remote(run)] = run
            display.show([], {})
        while pending:
            ended, _ = ray.wait(list(pending), timeout=_POLL_SECONDS)
            for future in ended:
                try:
                    outcome = ray.get(future)
                except ray.exceptions.RayError as error:  # its machine was lost, or cannot read the directory
                    outcome = Outcome(1, str(error).strip().splitlines()[-1])
                outcomes[pending.pop(future).name] = outcome
            display.show([run.name for run in pending.values() if log_path(run, out).exists()], outcomes)
        return outcomes
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray installs a handler of its own and leaves it when it is shut down
