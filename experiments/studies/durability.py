"""What checkpoints cost and whether they are exact: time to save and to resume, and a run that is killed repeatedly.

python -m experiments.studies.durability stall  # seconds to save and load 500,000 rows; needs 10 GB of disk
python -m experiments.studies.durability soak   # over an hour: one run twice, one of them killed at random moments
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import psutil
from dm_env import specs

from configs import rainbow_atari
from experiments.report import records
from seer_jax import replay
from seer_jax.run import assembly, checkpoint, resolve
from seer_jax.run.records import Record
from seer_jax.seer.placed_ring import PlacedRing

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "durability"
STALL_ROWS = 500_000
MEAN_SECONDS_BETWEEN_KILLS = 240.0
_SAMPLE_SECONDS = 5.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TIMES = ("seconds", "steps_per_second")  # ends of the names of fields that differ between equal runs
# A checkpoint a minute on one core; the rings of both phases are overwritten several times.
_SOAK = {
    "total_steps": 200_000,
    "checkpoint_every": 4000,
    "eval_every": 50_000,
    "eval_episodes": 4,
    "seer.freeze_step": 40_000,
    "replay.grow_after_freeze": True,
}


def stall() -> None:
    """Times saving and loading a checkpoint of each phase with a ring of the paper's size for Atari."""
    parts = assembly.assemble(resolve.resolve(rainbow_atari.get_config()), specs.DiscreteArray(18))
    for phase in (parts.full, parts.frozen):
        spec = dataclasses.replace(phase.ring_spec, num_steps=STALL_ROWS)
        phase = dataclasses.replace(phase, ring_spec=spec)
        ring = replay.restore(spec, phase.init_ring(), 1.0, np.zeros((STALL_ROWS, 1), np.float32))
        trees = {"train": phase.init_state(jax.random.PRNGKey(0))}
        jax.block_until_ready((ring, trees))
        with tempfile.TemporaryDirectory(dir=".") as directory:
            began = time.monotonic()
            checkpoint.save(
                pathlib.Path(directory), 1, progress={}, trees=trees, ring=PlacedRing.of(phase.placement, spec, ring)[0]
            )
            saved = time.monotonic()
            ring_bytes = ring.num_bytes
            replay.free(ring)
            found = checkpoint.newest(pathlib.Path(directory), sys.exit)
            assert found is not None
            rings = PlacedRing.of(phase.placement, spec, phase.init_ring())
            jax.block_until_ready((found.restore({"train": phase.state}, rings[0], phase.row), rings.join()))
            resumed = time.monotonic()
        times = {"save_seconds": saved - began, "resume_seconds": resumed - saved}
        _write_result(f"stall-{phase.name}", {"rows": STALL_ROWS, "ring_bytes": ring_bytes} | times)


def soak() -> None:
    """Trains the quick preset, longer, in two runs at once: one undisturbed, the other killed at random moments."""
    with tempfile.TemporaryDirectory(dir=".") as directory:
        undisturbed, killed = (
            RestartableRun(pathlib.Path(directory) / name, core) for core, name in enumerate(("undisturbed", "killed"))
        )
        with undisturbed.running(), killed.running():
            kills = _kill_until_finished(killed)
            undisturbed.wait(timeout=None)
        lines = [untimed_lines(run.run_dir) for run in (undisturbed, killed)]
    _write_result(
        "soak",
        {
            "minutes": undisturbed.samples[-1][0] / 60,
            "env_steps": lines[0][-1]["env_steps"],
            "checkpoints": sum(line["kind"] == "checkpoint" for line in lines[0]),
            "kills": kills,
            "equal": lines[0] == lines[1],
            "params_sha256": [each[-1]["params_sha256"] for each in lines],
            "resident_bytes_at_end": undisturbed.samples[-1][1],
            "resident_growth_bytes_per_hour": growth_per_hour(undisturbed.samples),
        },
    )


class RestartableRun:
    """A training run whose process can be killed and started again, and the memory that its processes held.

    Attributes:
      run_dir: the run directory.
      samples: pairs of seconds since the first start and resident bytes.
    """

    def __init__(self, run_dir: pathlib.Path, core: int) -> None:
        self.run_dir = run_dir
        self.samples: list[tuple[float, int]] = []
        self._core = core % (os.cpu_count() or 1)
        self._began = time.monotonic()
        self._finished = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Starts the run and samples its memory; kills it at the end of the context."""
        self._start()
        sampler = threading.Thread(target=self._sample_memory)
        sampler.start()
        try:
            yield
        finally:
            self._finished.set()
            sampler.join()
            self._process.kill()

    def restart(self) -> None:
        """Kills the process with SIGKILL and resumes the run in a new one."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._start()

    def wait(self, timeout: float | None) -> bool:
        """Waits at most `timeout` seconds for the end of the run and returns whether it ended.

        A run that failed ends this program with the output of the run.
        """
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        if code:
            sys.exit(self._log.read_text())
        return True

    @property
    def _log(self) -> pathlib.Path:
        return self.run_dir.with_suffix(".log")

    def _start(self) -> None:
        command = [sys.executable, "-m", "seer_jax.train", "--config=configs/rainbow_atari.py:quick"]
        command += [f"--config.{name}={value}" for name, value in _SOAK.items()]
        command += [f"--run_dir={self.run_dir}", "--resume"]
        with self._log.open("a") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        psutil.Process(self._process.pid).cpu_affinity([self._core])

    def _sample_memory(self) -> None:
        while not self._finished.wait(_SAMPLE_SECONDS):
            with contextlib.suppress(OSError, IndexError):  # the process was killed and is not started again yet
                pages = int(pathlib.Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
                if pages:
                    self.samples.append((time.monotonic() - self._began, pages * _PAGE_BYTES))


def growth_per_hour(samples: Sequence[tuple[float, int]]) -> float:
    """Returns the slope of resident memory in bytes per hour over the later half, after all rings are allocated.

    Args:
      samples: pairs of seconds and resident bytes, in order of time.
    """
    seconds, resident = np.asarray(samples[len(samples) // 2 :]).T
    return float(np.polyfit(seconds / 3600, resident, 1)[0])


def _kill_until_finished(run: RestartableRun) -> int:
    """Kills and restarts a run at random moments until it ends; returns how often."""
    rng, kills = np.random.default_rng(0), 0
    while not run.wait(timeout=rng.exponential(MEAN_SECONDS_BETWEEN_KILLS)):
        run.restart()
        kills += 1
    return kills


def untimed_lines(run_dir: pathlib.Path) -> list[Record]:
    return [{k: v for k, v in line.items() if not k.endswith(_TIMES)} for line in records.read(run_dir).lines]


def _write_result(name: str, result: dict[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(name, json.dumps(result))


COMMANDS = {"stall": stall, "soak": soak}


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    if len(argv) != 2 or argv[1] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    COMMANDS[argv[1]]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
