"""An encoder of a few hundred parameters, in Haiku, for runs whose directories are fixtures."""

import haiku as hk
import jax


@hk.transform
def encoder(images):
    """Maps images to `[B, h, w, 4]` features of a third of the resolution."""
    return jax.nn.relu(hk.Conv2D(4, kernel_shape=3, stride=3, padding="VALID")(images))
