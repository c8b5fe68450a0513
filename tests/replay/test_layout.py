"""How observations are stored: nothing of it shows outside of the ring."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax import replay
from seer_jax.replay import layout
from tests.helpers.rings import add_program, empty_ring, random_rows

# Smaller than the lanes of a tile, as many, more, and a multiple of them.
SHAPES = [(3, 3, 2), (8, 8, 2), (16, 9, 1), (1, 2, 192)]
DTYPES = [np.uint8, np.float32, jnp.bfloat16, np.float16]


def random_values(rng, shape, dtype):
    return jnp.asarray(rng.integers(0, 256, shape) if dtype == np.uint8 else rng.normal(size=shape), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_stored_observations_fill_whole_lanes_and_come_back_bit_for_bit(shape, dtype):
    like = jax.ShapeDtypeStruct(shape, dtype)
    values = random_values(np.random.default_rng(0), (5, 2, *shape), dtype)
    flat = layout.to_stored(like, values)
    (width,) = layout.stored(like).shape
    assert flat.shape == (5, 2, width)
    assert flat.dtype == layout.stored(like).dtype
    assert width % layout.LANES == 0
    assert 0 <= width - np.prod(shape) < layout.LANES
    assert not flat[..., np.prod(shape) :].any()
    back = layout.from_stored(like, flat)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("dtype", [np.uint16, *DTYPES])
def test_16_bit_floats_alone_are_stored_as_another_type(dtype):
    stored = layout.stored(jax.ShapeDtypeStruct((1, 2, 3), dtype)).dtype
    assert stored == (np.uint16 if dtype in (jnp.bfloat16, np.float16) else dtype)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("shape", SHAPES)
def test_sampled_latents_are_copies_of_the_rows_at_both_ends_of_their_windows(shape, dtype):
    num_envs, spec = 2, replay.RingSpec(num_steps=30, num_envs=2, stack=0, n_step=2, discount=0.9)
    rng, ring, stored = np.random.default_rng(0), empty_ring(spec, shape, dtype), []
    for _, row in zip(range(25), random_rows(rng, num_envs, (1,), end_prob=0, life_prob=0), strict=False):
        latents = random_values(rng, (num_envs, *shape), dtype)
        ring = add_program(spec)(ring, row.replace(observation=latents))
        stored.append(np.asarray(latents, np.float32))
    batch = jax.jit(functools.partial(replay.sample, spec, batch_size=40))(ring, jax.random.PRNGKey(0))
    for start, obs, next_obs in zip(np.asarray(batch.start), batch.obs, batch.next_obs, strict=True):
        time, env = divmod(start, num_envs)
        for found, copies in ((obs, stored[time][env]), (next_obs, stored[time + 2][env])):
            assert any(np.array_equal(found, copy) for copy in copies)
