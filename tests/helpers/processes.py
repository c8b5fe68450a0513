"""Processes of `seer_jax.train` and others, which share the time of their imports."""

import multiprocessing
import os
import pathlib
import resource
import signal
import sys
import time

from seer_jax import train

_SECONDS = 120.0  # after which a test gives up
# Children are forked from a process that has imported this module, and used nothing of it.
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([__name__])

SMALLEST_GAME = {
    "total_steps": 20,
    "learn_start": 10,
    "num_envs": 2,
    "log_every": 10,
    "eval_every": 1000,
    "eval_episodes": 1,
    "checkpoint_every": 0,
    "env.image_size": 42,
    "env.crop_size": 42,
    "env.max_episode_steps": 20,
    "encoder.name": "data_efficient",
    "agent.n_step": 3,
    "agent.hidden": 8,
    "agent.batch_size": 4,
    "replay.capacity": 60,
    "seer.enabled": False,
}


class Process:
    """A process that calls a function and exits with what it returns.

    Args:
      function: called with `arguments`.
      arguments: can be pickled.
      log: file that receives what it prints on both streams.
      cwd: its working directory.
      ignore_hangup: whether SIGHUP is ignored when it starts, as by `nohup`.
      file_bytes: bytes after which no file of it grows; None for any number.
    """

    def __init__(self, function, arguments, log, *, cwd, ignore_hangup=False, file_bytes=None):
        self._log = pathlib.Path(log)
        self._process = _server.Process(target=_main, args=(function, arguments, log, cwd, ignore_hangup, file_bytes))
        self._process.start()

    @property
    def pid(self):
        return self._process.pid

    @property
    def output(self):
        return self._log.read_text() if self._log.exists() else ""

    def send(self, number):
        os.kill(self.pid, number)

    def wait(self, seconds=_SECONDS):
        """Waits until it ends and returns its exit code, or minus the number of the signal that ended it."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"still running: {self.output}"
        return self._process.exitcode

    def wait_until(self, condition):
        """Waits until it has made `condition` true."""
        end = time.monotonic() + _SECONDS
        while not condition():
            assert self._process.is_alive(), self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.02)

    def kill(self):
        """Ends it as `kill -9` does, if it has not ended."""
        self._process.kill()
        self._process.join()


def _main(function, arguments, log, cwd, ignore_hangup, file_bytes):
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(cwd)
    # Whatever the process does that all of them are forked from.
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignore_hangup else signal.SIG_DFL)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    sys.exit(function(*arguments))


def train_game(log, *arguments, cwd, ignore_hangup=False, file_bytes=None, **changes):
    """Starts `python -m seer_jax.train ARGUMENTS` for the smallest run of a game.

    Args:
      log: file that receives its output.
      arguments: apart from those of the configuration.
      cwd: its working directory.
      ignore_hangup: as of `Process`.
      file_bytes: as of `Process`.
      changes: overrides by dotted name, dots as __.
    """
    fields = SMALLEST_GAME | {name.replace("__", "."): value for name, value in changes.items()}
    config = ["--config=rainbow_atari:quick", *(f"--config.{name}={value}" for name, value in fields.items())]
    argv = ["train", *config, *arguments]
    return Process(train.main, (argv,), log, cwd=cwd, ignore_hangup=ignore_hangup, file_bytes=file_bytes)
