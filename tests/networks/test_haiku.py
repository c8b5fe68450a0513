"""Haiku functions as stages of an encoder."""

import jax
import numpy as np
import pytest

from configs import curl_haiku
from seer_jax.networks import encoders, haiku, initializers
from tests.helpers.arrays import normal, random_params


@pytest.mark.numeric
def test_haiku_function_is_one_stage_of_an_encoder():
    encoder = encoders.make_encoder("haiku:configs.curl_haiku:encoder", initializers.UNIFORM)
    x = normal(2, 42, 42, 9)
    params = random_params(encoder, x)
    direct = jax.jit(curl_haiku.encoder.apply)(params["haiku"], None, x)
    np.testing.assert_allclose(jax.jit(encoder.apply)(params, x), direct, rtol=1e-5, atol=1e-5)
    assert direct.shape == (2, 4, 4, 32)
    assert encoder.names == ("haiku",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("haiku:", "does not look like"),
        ("haiku:math", "does not look like"),
        ("haiku:.math:sqrt", "does not look like"),
        ("haiku:math:nothing", "cannot be imported"),
        ("haiku:nothing.at.all:f", "cannot be imported"),
        ("haiku:math:sqrt", "must be what hk.transform returned"),
    ],
)
def test_loading_what_is_no_haiku_function_raises(name, message):
    with pytest.raises(haiku.HaikuError, match=message):
        haiku.load(name)
