"""An encoder of a few hundred parameters, in Haiku, for runs whose directories are fixtures."""

import haiku as hk
import jax


@hk.transform
def encoder(images):
    """Maps images to `[B, h, w, 4]` features of a third of the resolution."""
    return jax.nn.relu(hk.Conv2D(4, kernel_shape=3, stride=3, padding="VALID")(images))


@hk.transform
def failing(images):
    """Fails, as an encoder of a user may."""
    raise RuntimeError(f"images of {images.shape[-1]} channels\nare too many")
