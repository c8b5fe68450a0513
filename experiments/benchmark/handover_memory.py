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
import jax.numpy as jnp
from dm_env import specs

from configs import rainbow_atari
from seer_jax import replay
from seer_jax.agents import base, rainbow
from seer_jax.seer import handover

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_WARM_UP_ROWS = 600
_SAMPLE_SECONDS = 0.002


def measure(rows: int, latent_dtype: str = "float32") -> dict[str, int]:
    """Returns bytes: `base` before the handover, `peak_above_base` during it, and `larger_ring` of both rings.

    Args:
      rows: frames in the ring.
      latent_dtype: in which latents are stored.
    """
    agent, state = _make_agent()
    with tempfile.TemporaryDirectory() as directory:
        _hand_over(agent, state, *_image_ring(_WARM_UP_ROWS), pathlib.Path(directory) / "warm-up", latent_dtype)
        base_bytes = _resident_bytes()
        with _sampled_memory() as samples:
            spec, images = _image_ring(rows)
            image_bytes = images.num_bytes
            latents = _hand_over(agent, state, spec, images, pathlib.Path(directory) / "measured", latent_dtype)
    return {
        "base": base_bytes,
        "peak_above_base": max(samples) - base_bytes,
        "larger_ring": max(image_bytes, latents.num_bytes),
    }


def _make_agent() -> tuple[base.Agent, base.TrainState]:
    config = rainbow_atari.get_config()
    config.seer.freeze_through = "conv2"
    agent = rainbow.make_agent(config, specs.DiscreteArray(18))
    return agent, jax.jit(agent.init)(jax.random.PRNGKey(0))


def _image_ring(rows: int) -> tuple[replay.RingSpec, replay.Ring]:
    frame, action = jax.ShapeDtypeStruct((1, 84, 84, 1), jnp.uint8), jax.ShapeDtypeStruct((1,), jnp.int32)
    spec = replay.RingSpec(num_steps=rows, num_envs=1, stack=4, n_step=20, discount=0.99)
    ring = replay.init(spec, replay.row_shapes(frame, action)).replace(written=jnp.int32(rows))
    return spec, jax.block_until_ready(ring)


def _hand_over(
    agent: base.Agent,
    state: base.TrainState,
    spec: replay.RingSpec,
    ring: replay.Ring,
    snapshot_dir: pathlib.Path,
    latent_dtype: str,
) -> replay.Ring:
    """Returns the ring of latents."""
    stack, actions = jax.ShapeDtypeStruct((1, 84, 84, 4), jnp.uint8), jax.ShapeDtypeStruct((1,), jnp.int32)
    _, latents = handover.freeze(
        agent,
        state,
        spec,
        ring,
        latent_spec=dataclasses.replace(spec, stack=0),
        latent_rows=handover.latent_rows(agent, state.params, stack, actions, latent_dtype),
        snapshot_dir=snapshot_dir,
        key=jax.random.PRNGKey(0),
    )
    return jax.block_until_ready(latents)


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
