"""Prints the resident memory, in bytes, that a handover of ROWS frames of 84x84 takes above the process's base.

python -m tests.measure_handover ROWS [LATENT_DTYPE]
"""

import dataclasses
import json
import pathlib
import sys
import tempfile
import threading

import jax
import jax.numpy as jnp
from dm_env import specs

from configs import rainbow_atari
from seer_jax.run.assembly import assemble
from seer_jax.run.resolve import resolve
from seer_jax.seer import handover

_PAGE = 4096


def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def with_rows(phase, rows):
    return dataclasses.replace(phase, ring_spec=dataclasses.replace(phase.ring_spec, num_steps=rows))


def image_ring(phase):
    """Returns a ring of zeros that counts as full."""
    ring = phase.init_ring()
    index = ring.index.replace(written=jnp.int32(phase.ring_spec.num_steps))
    return jax.block_until_ready(ring.replace(index=index))


def main(rows, latent_dtype="float32"):
    config = rainbow_atari.get_config()
    config.replay.latent_dtype = latent_dtype
    assembly = assemble(resolve(config), specs.DiscreteArray(18))
    state = jax.jit(assembly.agent.init)(jax.random.PRNGKey(0))

    def freeze(rows, ring, directory):
        _, latents = handover.freeze(
            with_rows(assembly.full, rows),
            with_rows(assembly.frozen, rows),
            state,
            ring,
            snapshot_dir=directory,
            key=jax.random.PRNGKey(0),
        )
        return jax.block_until_ready(latents)

    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        freeze(600, image_ring(with_rows(assembly.full, 600)), directory / "warm-up")
        base, peaks, stop = resident(), [0], threading.Event()

        def watch():
            while not stop.wait(0.002):
                peaks.append(resident())

        thread = threading.Thread(target=watch)
        thread.start()
        images = image_ring(with_rows(assembly.full, rows))
        image_bytes = images.num_bytes
        latents = freeze(rows, images, directory / "real")
        stop.set()
        thread.join()
    larger = max(image_bytes, latents.num_bytes)
    print(json.dumps({"base": base, "peak_above_base": max(peaks) - base, "larger_ring": larger}))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
