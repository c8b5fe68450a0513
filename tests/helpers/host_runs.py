"""Runs of several processes on this machine, each of which has some devices of the CPU and plays fake games."""

import os
import signal
import socket

import jax
import pytest

from seer_jax import cli, files, train
from seer_jax.run import lock, metrics
from seer_jax.run import start as start_lib
from seer_jax.run.stepper import Stepper
from seer_jax.seer import handover, hosts
from tests.helpers.fake_env import FakeEnv
from tests.helpers.processes import Process
from tests.helpers.runs import compiled_once, fake_games

NUM_PROCESSES = 2
_SECONDS = 400.0  # after which a test gives up; processes that share two cores wait for each other
FAILING_STEP = 20  # vector step in which something happens to a process


def start(jobs, directory, *, devices=1, num_processes=NUM_PROCESSES):
    """Starts processes that train one run after another, in Python.

    Args:
      jobs: for each run the arguments of `train.run` by name, and `event`, the name of a function in `EVENTS`.
      directory: receives what they print, as `0.log` and so on; a line says how each run ended.
      devices: devices of each process.
      num_processes: 1 for a process alone, which knows of no other.
    """
    coordinator = f"localhost:{free_port()}" if num_processes > 1 else None
    return [
        Process(_train, (jobs, devices, coordinator, i), directory / f"{i}.log", cwd=directory)
        for i in range(num_processes)
    ]


def start_commands(arguments, directory, *, devices=1, event=None):
    """Starts `python -m seer_jax.train ARGUMENTS` as two processes; other arguments as of `start`."""
    coordinator = [f"--coordinator=localhost:{free_port()}", f"--num_processes={NUM_PROCESSES}"]
    return [
        Process(
            _run_command,
            (["train", *arguments, *coordinator, f"--process_id={i}"], devices, event, i),
            directory / f"{i}.log",
            cwd=directory,
        )
        for i in range(NUM_PROCESSES)
    ]


def wait(processes):
    """Waits until all have ended, and returns their exit codes and what they printed."""
    try:
        return [process.wait(_SECONDS) for process in processes], [process.output for process in processes]
    finally:
        for process in processes:
            process.kill()


def free_port():
    """Returns a port of this machine that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def _train(jobs, devices, coordinator, index):
    jax.config.update("jax_num_cpu_devices", devices)
    if coordinator is not None:
        hosts.initialize(coordinator, NUM_PROCESSES, index)
    with fake_games(), compiled_once():
        for number, job in enumerate(jobs):
            event = EVENTS[job.pop("event", None)]
            outcome = "done"
            with cli.signals() as received, pytest.MonkeyPatch.context() as patch:
                changes = event(patch, index) or {}
                try:
                    train.run(**(job | changes), stop=lambda received=received: bool(received))
                except Exception as error:
                    outcome = f"{type(error).__name__}: {error}"
            print(f"job {number}: {outcome}", flush=True)
    return 0


def _run_command(argv, devices, event, index):
    jax.config.update("jax_num_cpu_devices", devices)
    with fake_games(), compiled_once(), pytest.MonkeyPatch.context() as patch:
        EVENTS[event](patch, index)
        return train.main(argv)


def _at_step(patch, act):
    """Calls `act` before the vector step `FAILING_STEP` of the next run."""
    vector_step, seen = Stepper.vector_step, []

    def step(stepper, *arguments, **named):
        seen.append(1)
        if len(seen) == FAILING_STEP:
            act()
        vector_step(stepper, *arguments, **named)

    patch.setattr(Stepper, "vector_step", step)


def _nothing(patch, index):
    pass


def _kill_second(patch, index):
    if index == 1:
        _at_step(patch, lambda: os.kill(os.getpid(), signal.SIGKILL))


def _terminate_second(patch, index):
    if index == 1:
        _at_step(patch, lambda: os.kill(os.getpid(), signal.SIGTERM))


def _environment_of_second_fails(patch, index):
    def step(env, action, running):
        raise RuntimeError("no game")

    if index == 1:
        _at_step(patch, lambda: patch.setattr(FakeEnv, "step_some", step))


def _record_of_first_fails(patch, index):
    written, write = [], metrics.MetricsWriter.write

    def write_some(writer, record):
        written.append(record)
        if len(written) == 4:
            raise metrics.WriteError("no room for a record")
        write(writer, record)

    if index == 0:
        patch.setattr(metrics.MetricsWriter, "write", write_some)


def _second_sees_another_directory(patch, index):
    if index == 1:
        patch.setattr(lock, "LOCK_FILE", "not.lock")
        patch.setattr(start_lib, "_SHARED_SECONDS", 0.2)


def _second_has_another_configuration(patch, index):
    return {"resume": True} if index == 1 else {}


def _snapshot_fails(patch, index):
    append = files.ChunkStream.append

    def full(stream, **arrays):
        if stream._directory.name == "freeze":
            raise OSError(28, "No space left on device")
        append(stream, **arrays)

    patch.setattr(files.ChunkStream, "append", full)


def _stop_of_second_in_handover(patch, index):
    encode, sent = handover._Encoder.encode, []

    def stopping(encoder, *arguments):
        encode(encoder, *arguments)
        if not sent:
            os.kill(os.getpid(), signal.SIGTERM)
        sent.append(1)

    patch.setattr(handover, "_CHUNK_ROWS", 16)
    if index == 1:
        patch.setattr(handover._Encoder, "encode", stopping)


EVENTS = {
    None: _nothing,
    "kill second": _kill_second,
    "terminate second": _terminate_second,
    "environment of second fails": _environment_of_second_fails,
    "record of first fails": _record_of_first_fails,
    "second sees another directory": _second_sees_another_directory,
    "second has another configuration": _second_has_another_configuration,
    "snapshot fails": _snapshot_fails,
    "stop of second in handover": _stop_of_second_in_handover,
}
