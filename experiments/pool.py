"""Training many runs: as many at a time as cores and memory allow, or on a Ray cluster.

Each run is a process of its own, `python -m seer_jax.train --resume`: one that was cut off goes on where it was, and
one that fails takes no other with it.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import psutil
from absl import flags

from experiments import records
from experiments.spec import Run
from seer_jax.envs import registry
from seer_jax.run import assembly, plan, run_dir

_ROOT = pathlib.Path(__file__).parents[1]  # from which a configuration file is found
_POLL_SECONDS = 0.2
_PROCESS_BYTES = 1.5e9  # of a run apart from its rings and states: packages, programs, environments
_STOP_SECONDS = 120.0  # in which an interrupted run writes its checkpoint


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
      code: exit code; 0 is success.
      message: the last line that it said, if it failed.
    """

    code: int
    message: str = ""


def define_flags(values: flags.FlagValues) -> None:
    """Defines how a command lets its users choose where runs take place."""
    flags.DEFINE_integer("workers", None, "Runs at a time; as fit unless given.", 1, 1000, flag_values=values)
    flags.DEFINE_enum(
        "backend", "local", ["local", "ray"], "Processes here, or a Ray cluster (RAY_ADDRESS).", flag_values=values
    )


def train_all(
    runs: Sequence[Run], out: pathlib.Path, *, workers: int | None = None, backend: str = "local"
) -> dict[str, Outcome]:
    """Trains runs, those that others start from first, and returns how each ended.

    Interrupted, it lets them write their checkpoints first.

    Args:
      runs: with different names.
      out: holds `runs/NAME`, and `runs/NAME.log` of what each said.
      workers: runs at a time; unset, as many as cores and memory allow.
      backend: `local` or `ray`.
    """
    (out / "runs").mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    sources = {run.source for run in runs}
    for stage in ([run for run in runs if run.name in sources], [run for run in runs if run.name not in sources]):
        todo = []
        for run in stage:
            failed = outcomes.get(run.source, Outcome(0)).code
            if failed:
                outcomes[run.name] = Outcome(failed, f"{run.source}, which it starts from, failed")
            elif is_done(out, run):
                outcomes[run.name] = Outcome(0)
            else:
                todo.append(run)
        if todo:
            outcomes |= {"local": _train_locally, "ray": _train_on_ray}[backend](todo, out, workers)
    return outcomes


def tell_failures(outcomes: Mapping[str, Outcome]) -> int:
    """Prints the runs that failed; returns an exit code, 1 if there are any."""
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.code}
    for name, outcome in failed.items():
        print(f"{name} failed with exit code {outcome.code}: {outcome.message}", file=sys.stderr)
    return int(bool(failed))


def is_done(out: pathlib.Path, run: Run) -> bool:
    """Whether a run came to its end.

    Raises:
      ConfigError: the directory holds a run of this name with another configuration.
    """
    directory = out / "runs" / run.name
    with contextlib.suppress(records.RecordsError):
        if records.read(directory, run.arm).finished:
            run_dir.check_same(run.load(out.absolute() / "runs"), directory)
            return True
    return False


def memory_needed(run: Run) -> int:
    """Returns the bytes that a run takes at its peak, roughly."""
    config = run.load()
    env = registry.make_env(config, training=True)
    try:
        return int(
            _PROCESS_BYTES + max(part.device_bytes for part in plan.sizes(assembly.assemble(config, env.action_spec)))
        )
    finally:
        env.close()


def command(run: Run, out: pathlib.Path) -> list[str]:
    """Returns the command line that trains a run, or goes on with it."""
    runs_dir = (out / "runs").absolute()
    arguments = [*run.arguments(runs_dir), f"--run_dir={runs_dir / run.name}", "--resume"]
    return [sys.executable, "-m", "seer_jax.train", *arguments]


def _train_locally(runs: Sequence[Run], out: pathlib.Path, workers: int | None) -> dict[str, Outcome]:
    cores = sorted(psutil.Process().cpu_affinity())
    workers = min(len(runs), workers or len(cores))
    # Runs share no cores: two that do take longer than one after the other.
    free_cores = [cores[i::workers] or cores for i in range(workers)]
    waiting = [(run, memory_needed(run)) for run in runs]
    running: dict[str, tuple[subprocess.Popen, list[int], int]] = {}
    outcomes = {}
    with _stopping(running):
        while waiting or running:
            for name, (process, its_cores, _) in list(running.items()):
                if process.poll() is not None:
                    outcomes[name] = _outcome(process.returncode, out / "runs" / f"{name}.log")
                    free_cores.append(its_cores)
                    del running[name]
            room = psutil.virtual_memory().total - sum(needed for *_, needed in running.values())
            fitting = [(run, needed) for run, needed in waiting if needed <= room or not running]
            if free_cores and fitting:
                run, needed = fitting[0]
                waiting.remove((run, needed))
                its_cores = free_cores.pop()
                running[run.name] = _start(run, out, its_cores), its_cores, needed
            else:
                time.sleep(_POLL_SECONDS)
    return outcomes


def _start(run: Run, out: pathlib.Path, cores: list[int]) -> subprocess.Popen:
    with (out / "runs" / f"{run.name}.log").open("w") as log:
        # In a session of its own: Ctrl-C is ours to pass on.
        process = subprocess.Popen(
            command(run, out), stdout=log, stderr=subprocess.STDOUT, cwd=_ROOT, start_new_session=True
        )
    psutil.Process(process.pid).cpu_affinity(cores)
    return process


@contextlib.contextmanager
def _stopping(running: Mapping[str, tuple[subprocess.Popen, list[int], int]]) -> Iterator[None]:
    """Lets what still runs when the context is left, also by SIGTERM, write its checkpoint and end."""

    def leave(number: int, frame) -> None:
        del frame
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for process, *_ in running.values():
            process.terminate()
        for process, *_ in running.values():
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _outcome(code: int, log: pathlib.Path) -> Outcome:
    if code == 0:
        return Outcome(0)
    said = [line for line in log.read_text().splitlines() if line.strip()]
    return Outcome(code, said[-1] if said else "")


def _train_on_ray(runs: Sequence[Run], out: pathlib.Path, workers: int | None) -> dict[str, Outcome]:
    import ray  # an extra requirement

    out = out.absolute()  # workers start elsewhere
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), num_cpus=None if os.environ.get("RAY_ADDRESS") else workers)

    @ray.remote(num_cpus=1, max_retries=-1)
    def train(run: Run) -> Outcome:
        log = out / "runs" / f"{run.name}.log"
        with log.open("w") as f:
            done = subprocess.run(command(run, out), stdout=f, stderr=subprocess.STDOUT, check=False, cwd=_ROOT)
        return _outcome(done.returncode, log)

    # A run that needs more than any machine has is tried on the largest, as the local pool tries it alone.
    largest = max(node["Resources"].get("memory", 0.0) for node in ray.nodes())
    futures = {run.name: train.options(memory=min(memory_needed(run), int(largest))).remote(run) for run in runs}
    outcomes = {}
    for name, future in futures.items():
        try:
            outcomes[name] = ray.get(future)
        except ray.exceptions.RayError as error:  # its machine was lost, or cannot read the directory
            outcomes[name] = Outcome(1, str(error).strip().splitlines()[-1])
    return outcomes
