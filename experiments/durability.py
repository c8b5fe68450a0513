"""What it costs to lose nothing: the stall of a checkpoint, the time to resume, and an hour of random kills.

python -m experiments.durability stall  # seconds to write and to read checkpoints of 500,000 rows; wants 10 GB of disk
python -m experiments.durability soak   # an hour and more: one run twice, one of them killed again and again
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

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from dm_env import specs

from configs import rainbow_atari
from seer_jax import replay
from seer_jax.run import assembly, checkpoint
from seer_jax.run import resolve as config_lib
from seer_jax.seer import phases

RESULTS = pathlib.Path(__file__).parent / "results" / "durability"
STALL_ROWS = 500_000
SECONDS_BETWEEN_KILLS = 240.0  # on average
_SAMPLE_SECONDS = 5.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# A checkpoint a minute on one core; the rings of both phases turn round several times.
_SOAK = {
    "total_steps": 200_000,
    "checkpoint_every": 4000,
    "eval_every": 50_000,
    "eval_episodes": 4,
    "seer.freeze_step": 40_000,
    "replay.grow_after_freeze": True,
}


def stall() -> None:
    """Times a checkpoint of each phase at the paper's size for Atari."""
    parts = assembly.assemble(config_lib.resolve(rainbow_atari.get_config()), specs.DiscreteArray(18))
    for phase in (phases.FULL, phases.FROZEN):
        spec = dataclasses.replace(parts.spec(phase), num_steps=STALL_ROWS)
        ring = replay.init(spec, parts.rows(phase)).replace(written=jnp.int32(STALL_ROWS))
        state = jax.jit(parts.agent.init)(jax.random.PRNGKey(0))
        trees = {"train": state if phase == phases.FULL else parts.agent.freeze(state)}
        shapes = jax.eval_shape(lambda ring=ring, trees=trees: (ring, trees))
        jax.block_until_ready((ring, trees))
        with tempfile.TemporaryDirectory(dir=".") as directory:
            began = time.monotonic()
            checkpoint.save(pathlib.Path(directory), 1, progress={}, trees=trees, ring=ring)
            saved = time.monotonic()
            ring_bytes = ring.num_bytes
            jax.tree.map(lambda x: x.delete(), ring)
            found = checkpoint.newest(pathlib.Path(directory), sys.exit)
            jax.block_until_ready(found.restore(shapes[1], spec, shapes[0]))
        _keep(
            f"stall-{phase}",
            {
                "rows": STALL_ROWS,
                "ring_bytes": ring_bytes,
                "save_seconds": saved - began,
                "resume_seconds": time.monotonic() - saved,
            },
        )


def soak() -> None:
    """Runs the quick preset, longer, twice at once: undisturbed, and killed at random moments."""
    with tempfile.TemporaryDirectory(dir=".") as directory:
        whole, killed = (Life(pathlib.Path(directory) / name, core) for core, name in enumerate(("whole", "killed")))
        rng, kills = np.random.default_rng(0), 0
        with whole.living(), killed.living():
            while not killed.ended(timeout=rng.exponential(SECONDS_BETWEEN_KILLS)):
                killed.process.send_signal(signal.SIGKILL)
                killed.process.wait()
                kills += 1
                killed.start()
            whole.ended(timeout=None)
        lines = [_untimed(life.run_dir) for life in (whole, killed)]
        saves = sum(record["kind"] == "checkpoint" for record in lines[0])
    _keep(
        "soak",
        {
            "minutes": whole.samples[-1][0] / 60,
            "env_steps": lines[0][-1]["env_steps"],
            "checkpoints": saves,
            "kills": kills,
            "equal": lines[0] == lines[1],
            "params_sha256": [records[-1]["params_sha256"] for records in lines],
            "resident_bytes_at_end": whole.samples[-1][1],
            "resident_growth_bytes_per_hour": whole.growth_per_hour(),
        },
    )


class Life:
    """A run in processes of its own, of which one lives at a time, and the memory that they held.

    Attributes:
      samples: seconds since the first start, and resident bytes.
    """

    def __init__(self, run_dir: pathlib.Path, core: int):
        self.run_dir, self.samples = run_dir, []
        self._core, self._born, self._over = core % os.cpu_count(), time.monotonic(), threading.Event()

    def start(self) -> None:
        command = [sys.executable, "-m", "seer_jax.train", "--config=configs/rainbow_atari.py:quick"]
        command += [f"--config.{name}={value}" for name, value in _SOAK.items()]
        command += [f"--run_dir={self.run_dir}", "--resume"]
        log = self.run_dir.with_suffix(".log")
        with log.open("a") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        psutil.Process(self.process.pid).cpu_affinity([self._core])

    def ended(self, timeout: float | None) -> bool:
        """Waits that long and says whether the run came to its end; ends the program if it failed."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        if code:
            sys.exit(self.run_dir.with_suffix(".log").read_text())
        return True

    @contextlib.contextmanager
    def living(self):
        """Starts the run and watches its memory; ends it with the context."""
        self.start()
        watch = threading.Thread(target=self._watch)
        watch.start()
        try:
            yield
        finally:
            self._over.set()
            watch.join()
            self.process.kill()

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            with contextlib.suppress(OSError, IndexError):  # between two lives
                pages = int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
                if pages:
                    self.samples.append((time.monotonic() - self._born, pages * _PAGE_BYTES))

    def growth_per_hour(self) -> float:
        """Slope of the resident bytes over the later half, in which all that is allocated was."""
        seconds, resident = np.asarray(self.samples[len(self.samples) // 2 :]).T
        return float(np.polyfit(seconds / 3600, resident, 1)[0])


def _untimed(run_dir: pathlib.Path) -> list[dict]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    times = ("seconds", "steps_per_second")
    return [{k: v for k, v in json.loads(line).items() if not k.endswith(times)} for line in lines]


def _keep(name: str, result: dict) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(name, json.dumps(result))


COMMANDS = {"stall": stall, "soak": soak}


def main(argv: list[str]) -> int:
    if len(argv) != 2 or argv[1] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    COMMANDS[argv[1]]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
