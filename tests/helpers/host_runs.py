"""Runs of several processes on this machine, each of which has some devices of the CPU and plays fake games."""

import socket

import jax

from seer_jax import train
from seer_jax.seer import hosts
from tests.helpers.processes import Process
from tests.helpers.runs import fake_games

NUM_PROCESSES = 2


def start(jobs, directory, *, devices=1, num_processes=NUM_PROCESSES):
    """Starts processes that train one run after another.

    Args:
      jobs: arguments of `train.run`, as dictionaries.
      directory: receives what they print, as `0.log` and so on.
      devices: devices of each process.
      num_processes: 1 for a process alone, which is not told of others.
    """
    coordinator = f"localhost:{free_port()}" if num_processes > 1 else None
    return [
        Process(_train, (jobs, devices, coordinator, num_processes, i), directory / f"{i}.log", cwd=directory)
        for i in range(num_processes)
    ]


def _train(jobs, devices, coordinator, num_processes, index):
    jax.config.update("jax_num_cpu_devices", devices)
    if coordinator is not None:
        hosts.initialize(coordinator, num_processes, index)
    with fake_games():
        for job in jobs:
            train.run(**job)
    return 0


def free_port():
    """Returns a port of this machine that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
