"""Trains runs in processes on this machine, as many at a time as cores and memory allow."""

import contextlib
import dataclasses
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

import psutil

from experiments.runner.display import PoolDisplay
from experiments.runner.process import ROOT, Outcome, log_path, read_outcome
from experiments.runner.spec import Run

_POLL_SECONDS = 0.2
_CHECKPOINT_SECONDS = 120.0  # in which an interrupted run must write its checkpoint and exit


@dataclasses.dataclass(frozen=True)
class _Waiting:
    run: Run
    memory: int  # estimated bytes


@dataclasses.dataclass(frozen=True)
class _Running:
    run: Run
    memory: int
    process: subprocess.Popen
    cores: list[int]


def train(runs: Sequence[Run], out: pathlib.Path, workers: int | None, display: PoolDisplay) -> dict[str, Outcome]:
    """Trains the runs and returns how each ended, by name.

    A run whose estimated memory exceeds what this machine has is trained alone. An interrupt, SIGTERM or SIGHUP is
    passed on to all processes, which write their checkpoints, and then leaves this function as an exception.

    Args:
      runs: with different names.
      out: directory that holds `runs/`.
      workers: largest number of processes at a time; None takes the number of cores.
      display: shows the runs.
    """
    free_cores = _split_cores(min(len(runs), workers or len(_cores())))
    waiting: list[_Waiting] = []
    for run in runs:
        waiting.append(_Waiting(run, run.estimate_memory()))
        display.show([], {})
    running: dict[str, _Running] = {}
    outcomes: dict[str, Outcome] = {}
    with _stop_on_exit(running):
        while waiting or running:
            for ended in [each for each in running.values() if each.process.poll() is not None]:
                outcomes[ended.run.name] = read_outcome(ended.process.returncode, log_path(ended.run, out))
                free_cores.append(ended.cores)
                del running[ended.run.name]
            display.show(running, outcomes)
            fitting = _first_that_fits(waiting, running)
            if free_cores and fitting is not None:
                waiting.remove(fitting)
                running[fitting.run.name] = _start(fitting, out, free_cores.pop())
            else:
                time.sleep(_POLL_SECONDS)
    return outcomes


def _cores() -> list[int]:
    return sorted(psutil.Process().cpu_affinity() or [])


def _split_cores(workers: int) -> list[list[int]]:
    """Returns the cores of each worker, disjoint: two runs on the same cores take longer than one after the other."""
    cores = _cores()
    return [cores[i::workers] or cores for i in range(workers)]


def _first_that_fits(waiting: Sequence[_Waiting], running: Mapping[str, _Running]) -> _Waiting | None:
    free_memory = psutil.virtual_memory().total - sum(each.memory for each in running.values())
    return next((each for each in waiting if each.memory <= free_memory or not running), None)


def _start(waiting: _Waiting, out: pathlib.Path, cores: list[int]) -> _Running:
    run = waiting.run
    with log_path(run, out).open("w") as log:
        # A new session does not receive the terminal's Ctrl-C, which this process passes on as SIGTERM.
        process = subprocess.Popen(
            run.command(out), stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
    psutil.Process(process.pid).cpu_affinity(cores)
    return _Running(run, waiting.memory, process, cores)


@contextlib.contextmanager
def _stop_on_exit(running: Mapping[str, _Running]) -> Iterator[None]:
    """Raises SystemExit on SIGTERM or SIGHUP; on leaving, lets what still runs write its checkpoint and exit.

    A SIGHUP that is ignored already, as by `nohup`, stays ignored.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a shell and the kernel may both send it
        sys.exit(128 + number)

    caught = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN]
    before = {each: signal.signal(each, leave) for each in caught}
    try:
        yield
    finally:
        try:
            _stop([each.process for each in running.values()])
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_CHECKPOINT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
