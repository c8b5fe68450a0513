"""Trains runs as tasks of a Ray cluster, or of a local Ray instance if RAY_ADDRESS is not set."""

import os
import pathlib
import subprocess
from collections.abc import Sequence

from experiments.runner.process import ROOT, Outcome, log_path, read_outcome
from experiments.runner.spec import Run


def train(runs: Sequence[Run], out: pathlib.Path, workers: int | None) -> dict[str, Outcome]:
    """Trains the runs and returns how each ended, by name.

    Args:
      runs: with different names.
      out: directory that holds `runs/`; all machines of the cluster must share it.
      workers: number of cores of a local instance; None takes those of this machine.
    """
    import ray  # an extra requirement
    import ray.exceptions

    out = out.absolute()  # workers have other working directories
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), num_cpus=None if os.environ.get("RAY_ADDRESS") else workers)

    @ray.remote(num_cpus=1, max_retries=-1)
    def train_run(run: Run) -> Outcome:
        log = log_path(run, out)
        with log.open("w") as f:
            done = subprocess.run(run.command(out), stdout=f, stderr=subprocess.STDOUT, check=False, cwd=ROOT)
        return read_outcome(done.returncode, log)

    # A run that needs more memory than any machine has is tried on the largest, as the local backend tries it alone.
    largest = int(max(node["Resources"].get("memory", 0.0) for node in ray.nodes()))
    futures = {run.name: train_run.options(memory=min(run.estimate_memory(), largest)).remote(run) for run in runs}
    outcomes = {}
    for name, future in futures.items():
        try:
            outcomes[name] = ray.get(future)
        except ray.exceptions.RayError as error:  # the worker's machine was lost, or cannot read the directory
            outcomes[name] = Outcome(1, str(error).strip().splitlines()[-1])
    return outcomes
