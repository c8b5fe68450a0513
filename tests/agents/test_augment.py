"""Crops against slices."""

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax.agents import augment


def numbered(batch=64, size=7, channels=2):
    """Images whose pixels are all different."""
    return jnp.arange(batch * size * size * channels).reshape(batch, size, size, channels)


def test_random_crops_are_slices_that_reach_every_offset():
    images = numbered()
    crops = np.asarray(augment.random_crop(jax.random.PRNGKey(0), images, 5))
    offsets = []
    for image, crop in zip(np.asarray(images), crops, strict=True):
        ((top, left),) = [(t, s) for t in range(3) for s in range(3) if (image[t : t + 5, s : s + 5] == crop).all()]
        offsets.append((top, left))
    assert set(offsets) == {(t, s) for t in range(3) for s in range(3)}  # both ends, and independent of each other


def test_keys_make_different_crops_of_the_same_image():
    images = jnp.broadcast_to(numbered(1), (32, 7, 7, 2))
    first, second = (np.asarray(augment.random_crop(jax.random.PRNGKey(seed), images, 4)) for seed in (0, 1))
    assert len({crop.tobytes() for crop in first}) > 8
    assert not np.array_equal(first, second)


def test_centre_crop_leaves_equal_margins():
    images = numbered(2, size=10)
    np.testing.assert_array_equal(augment.centre_crop(images, 6), images[:, 2:8, 2:8])
    np.testing.assert_array_equal(augment.centre_crop(images, 10), images)
    np.testing.assert_array_equal(augment.random_crop(jax.random.PRNGKey(0), images, 10), images)
