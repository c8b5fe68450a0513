"""Crops of batches of images, on the device."""

import jax


def centre_crop(images: jax.Array, size: int) -> jax.Array:
    """Cuts the middle `size` x `size` pixels out of `[B, H, W, C]` images."""
    top, left = (images.shape[1] - size) // 2, (images.shape[2] - size) // 2
    return images[:, top : top + size, left : left + size]


def random_crop(key: jax.Array, images: jax.Array, size: int) -> jax.Array:
    """Cuts `size` x `size` pixels out of each of `[B, H, W, C]` images, anywhere they fit with equal chance."""
    batch, height, width, channels = images.shape
    k_top, k_left = jax.random.split(key)
    top = jax.random.randint(k_top, (batch,), 0, height - size + 1)
    left = jax.random.randint(k_left, (batch,), 0, width - size + 1)

    def crop(image: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (top, left, 0), (size, size, channels))

    return jax.vmap(crop)(images, top, left)
