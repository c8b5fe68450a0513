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
from seer_jax import replay
from seer_jax.agents import rainbow
from seer_jax.seer import handover

_PAGE = 4096


def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def image_ring(rows):
    frame, action = jax.ShapeDtypeStruct((1, 84, 84, 1), jnp.uint8), jax.ShapeDtypeStruct((1,), jnp.int32)
    spec = replay.RingSpec(num_steps=rows, num_envs=1, stack=4, n_step=20, discount=0.99)
    ring = replay.init(spec, replay.row_shapes(frame, action)).replace(written=jnp.int32(rows))
    return spec, jax.block_until_ready(ring)


def main(rows, latent_dtype="float32"):
    config = rainbow_atari.get_config()
    config.seer.freeze_through = "conv2"
    agent = rainbow.make_agent(config, specs.DiscreteArray(18))
    state = jax.jit(agent.init)(jax.random.PRNGKey(0))

    def freeze(spec, ring, directory):
        stack, actions = jax.ShapeDtypeStruct((1, 84, 84, 4), jnp.uint8), jax.ShapeDtypeStruct((1,), jnp.int32)
        _, latents = handover.freeze(
            agent,
            state,
            spec,
            ring,
            latent_spec=dataclasses.replace(spec, stack=0),
            latent_rows=handover.latent_rows(agent, state.params, stack, actions, latent_dtype),
            snapshot_dir=directory,
            key=jax.random.PRNGKey(0),
        )
        return jax.block_until_ready(latents)

    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        freeze(*image_ring(600), directory / "warm-up")
        base, peaks, stop = resident(), [0], threading.Event()

        def watch():
            while not stop.wait(0.002):
                peaks.append(resident())

        thread = threading.Thread(target=watch)
        thread.start()
        spec, images = image_ring(rows)
        image_bytes = images.num_bytes
        latents = freeze(spec, images, directory / "real")
        stop.set()
        thread.join()
    larger = max(image_bytes, latents.num_bytes)
    print(json.dumps({"base": base, "peak_above_base": max(peaks) - base, "larger_ring": larger}))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
