"""Prints the peak of resident memory, in bytes above that of the process before, of a handover of frames of 84x84.

python -m experiments.benchmark.handover_memory ROWS [LATENT_DTYPE]
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
import threading
from collections.abc import Iterator

import jax
import numpy as np
from dm_env import specs

from configs import rainbow_atari
from experiments.benchmark.synthetic import use_synthetic_suites
from seer_jax import replay
from seer_jax.agents import base
from seer_jax.run import assembly, resolve
from seer_jax.seer import handover
from seer_jax.seer.phases import Phase

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_WARM_UP_ROWS = 600
_SAMPLE_SECONDS = 0.002


def measure(rows: int, latent_dtype: str = "float32") -> dict[str, int]:
    """Returns bytes: `base` before the handover, `peak_above_base` during it, and `larger_ring` of both rings.

    Args:
      rows: frames in the ring.
      latent_dtype: in which latents are stored.
    """
    use_synthetic_suites()  # no environment is built
    config = rainbow_atari.get_config()
    config.update_from_flattened_dict({"replay.latent_dtype": latent_dtype})
    parts = assembly.assemble(resolve.resolve(config), specs.DiscreteArray(18))
    state = parts.full.init_state(jax.random.PRNGKey(0))
    full, frozen = _with_rows(parts.full, rows), _with_rows(parts.frozen, rows)
    with tempfile.TemporaryDirectory() as directory:
        warm_up = _with_rows(parts.full, _WARM_UP_ROWS), _with_rows(parts.frozen, _WARM_UP_ROWS)
        _hand_over(*warm_up, state, pathlib.Path(directory) / "warm-up")
        base_bytes = _resident_bytes()
        with _sampled_memory() as samples:
            _hand_over(full, frozen, state, pathlib.Path(directory) / "measured")
    return {
        "base": base_bytes,
        "peak_above_base": max(samples) - base_bytes,
        "larger_ring": max(full.ring.num_bytes, frozen.ring.num_bytes),
    }


def _with_rows(phase: Phase, rows: int) -> Phase:
    """Returns a phase with a ring of so many rows."""
    return dataclasses.replace(phase, ring_spec=dataclasses.replace(phase.ring_spec, num_steps=rows))


def _hand_over(full: Phase, frozen: Phase, state: base.TrainState, snapshot_dir: pathlib.Path) -> None:
    """Freezes an agent whose ring is full of black frames."""
    spec, ring = full.ring_spec, full.init_ring()
    ring = replay.restore(spec, ring, ring.index.max_priority, np.zeros((spec.num_steps, spec.num_envs), np.float32))
    seeds = {0: handover.SeedFreeze(snapshot_dir, jax.random.PRNGKey(0))}
    _, latents = handover.freeze(full, frozen, state, ring, seeds)
    jax.block_until_ready(latents)


def _resident_bytes() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


@contextlib.contextmanager
def _sampled_memory() -> Iterator[list[int]]:
    """Collects samples of the resident memory in the list that it gives, in bytes."""
    samples, stop = [0], threading.Event()

    def sample() -> None:
        while not stop.wait(_SAMPLE_SECONDS):
            samples.append(_resident_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        stop.set()
        sampler.join()


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    if not 2 <= len(argv) <= 3:
        print(__doc__, file=sys.stderr)
        return 2
    print(json.dumps(measure(int(argv[1]), *argv[2:])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
