"""Where convolutional features look: spatial attention maps, and pictures of them over frames."""

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

_COLOURS = "inferno"
_WEIGHT = 0.5  # of the map's colours; the frame has the rest


def spatial_attention(features: jax.Array) -> jax.Array:
    """Softmax over positions of the mean absolute activation over channels (Chen et al. 2021, section 5.5).

    The map is that of Laskin et al. 2020, https://arxiv.org/abs/2004.14990, after Zagoruyko and Komodakis 2017,
    https://arxiv.org/abs/1612.03928.

    Args:
      features: `[..., H, W, C]` output of a convolutional layer.

    Returns:
      `[..., H, W]` that sums to 1 over H and W.

    Raises:
      ValueError: the features have no positions.
    """
    if features.ndim < 3:
        raise ValueError(f"features of shape {list(features.shape)} have no positions: expected [..., H, W, C]")
    return jax.nn.softmax(jnp.abs(features).mean(axis=-1), axis=(-2, -1))


def overlay(frame: np.ndarray, attention: jax.Array) -> np.ndarray:
    """Colours a frame by an attention map, from the map's own minimum to its maximum.

    The map is stretched over the whole frame, also where the encoder's stages crop a remainder at its edges.

    Args:
      frame: `[H, W]` or `[H, W, 3]` uint8.
      attention: `[h, w]`; where it is the same everywhere, all of it has the colour of the minimum.

    Returns:
      `[H, W, 3]` uint8, half frame and half colours.

    Raises:
      ValueError: frame or map has another type or shape.
    """
    if frame.dtype != np.uint8 or not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 3)):
        raise ValueError(f"a frame is {frame.dtype}{list(frame.shape)}: expected uint8, [H, W] or [H, W, 3]")
    if attention.ndim != 2:
        raise ValueError(f"an attention map of shape {list(attention.shape)} is not one map: expected [h, w]")
    low, high = attention.min(), attention.max()
    heat = (attention - low) / jnp.where(high > low, high - low, 1.0)
    heat = jax.image.resize(heat, frame.shape[:2], "bilinear")
    colours = 255 * matplotlib.colormaps[_COLOURS](np.asarray(heat))[..., :3]  # [H, W, 3]
    rgb = frame if frame.ndim == 3 else frame[..., None]
    return np.round(_WEIGHT * colours + (1 - _WEIGHT) * rgb).astype(np.uint8)
