"""CURL-SAC with SEER and an encoder written in Haiku.

    python -m seer_jax.train --config=configs/curl_haiku.py:quick

Presets are those of `configs/curl_dmc.py`. Any function made with `hk.transform` can be the encoder, from any
module that Python finds: it is given `[B, H, W, C]` float32 images between 0 and 1, and is one stage, `haiku`.
CURL adds its dense layer after it.
"""

import haiku as hk
import jax
from ml_collections import config_dict

from seer_jax.configs import curl_dmc


@hk.transform
def encoder(images: jax.Array) -> jax.Array:
    """Maps images to `[B, h, w, 32]` features; half the resolution at each of three layers."""
    convolutions = [hk.Conv2D(32, kernel_shape=3, stride=2, padding="VALID") for _ in range(3)]
    return hk.Sequential([layer for convolution in convolutions for layer in (convolution, jax.nn.relu)])(images)


def get_config(preset_and_task: str = "paper,cartpole-swingup") -> config_dict.ConfigDict:
    config = curl_dmc.get_config(preset_and_task)
    config.update({"encoder": {"name": "haiku:seer_jax.configs.curl_haiku:encoder"}})
    return config
