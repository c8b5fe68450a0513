"""Encoders against direct computations."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.networks import encoders


@pytest.mark.numeric
@pytest.mark.parametrize(("size", "patch", "channels"), [(84, 5, 4), (42, 5, 4), (16, 5, 32), (7, 7, 1)])
def test_patch_product_equals_convolution(size, patch, channels):
    x = jax.random.normal(jax.random.PRNGKey(0), (2, size, size, channels))
    layer = encoders.PatchConv(8, patch)
    params = layer.init(jax.random.PRNGKey(1), x)
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    dims = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    expected = jax.lax.conv_general_dilated(x, kernel, (patch, patch), "VALID", dimension_numbers=dims) + bias
    np.testing.assert_allclose(layer.apply(params, x), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "latent"),
    [("data_efficient", 84, 576), ("data_efficient", 42, 64), ("canonical", 84, 3136), ("canonical", 42, 64)],
)
def test_output_shape_equals_shape_of_the_output(name, size, latent):
    encoder = encoders.make_encoder(name, encoders.UNIFORM)
    obs = jax.ShapeDtypeStruct((3, size, size, 4), jnp.uint8)

    def init_with_output(key, obs):
        x = encoders.to_float(obs)
        params = encoder.init(key, x)
        return encoders.flatten(encoder.apply(params, x)), params

    out, params = jax.eval_shape(init_with_output, jax.random.PRNGKey(0), obs)
    assert out.shape == (3, latent)
    assert out.dtype == jnp.float32
    assert math.prod(encoder.output_shape((size, size, 4))) == latent
    assert list(params) == list(encoder.names) == [f"conv{i + 1}" for i in range(len(encoder.stages))]


@pytest.mark.parametrize("name", ["data_efficient", "canonical", "sac_ae"])
def test_output_of_images_too_small_is_empty(name):
    assert math.prod(encoders.make_encoder(name, encoders.UNIFORM).output_shape((8, 8, 4))) == 0


@pytest.mark.numeric
def test_white_pixels_enter_the_encoder_as_ones():
    encoder = encoders.make_encoder("data_efficient", encoders.UNIFORM)
    white = encoders.to_float(jnp.full((1, 84, 84, 4), 255, jnp.uint8))
    params = encoder.init(jax.random.PRNGKey(0), white)
    conv1, conv2 = (params[name]["params"]["PatchConv_0"] for name in ("conv1", "conv2"))
    hidden = jax.nn.relu(conv1["kernel"].sum(axis=(0, 1, 2)) + conv1["bias"])
    out = jax.nn.relu(jnp.einsum("c,pqcf->f", hidden, conv2["kernel"]) + conv2["bias"])
    latent = encoders.flatten(encoder.apply(params, white))
    np.testing.assert_allclose(latent, jnp.tile(out, 9)[None], rtol=1e-4, atol=1e-5)


def params_of(encoder, shape):
    return jax.eval_shape(encoder.init, jax.random.PRNGKey(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32))


@pytest.mark.parametrize(("size", "features"), [(84, (35, 35, 32)), (42, (14, 14, 32))])
def test_sac_ae_encoder_has_its_published_shapes(size, features):
    encoder = encoders.make_encoder("sac_ae", encoders.DELTA_ORTHOGONAL)
    assert encoder.output_shape((size, size, 9)) == features
    assert encoder.names == ("conv1", "conv2", "conv3", "conv4")
    assert encoder.has_convolution


def test_impala_encoder_has_fifteen_convolutions():
    encoder = encoders.make_encoder("impala", encoders.DELTA_ORTHOGONAL)
    kernels = [x.shape for x in jax.tree.leaves(params_of(encoder, (84, 84, 9))) if x.ndim == 4]
    assert len(kernels) == 15
    assert all(shape[:2] == (3, 3) for shape in kernels)
    assert encoder.output_shape((84, 84, 9)) == (11, 11, 32)
    assert encoder.names == ("section1", "section2", "section3")


@pytest.mark.numeric
def test_residual_stage_equals_its_steps_one_by_one():
    stage = encoders.ResidualStage(4, last=True)
    x = jax.random.normal(jax.random.PRNGKey(0), (2, 9, 9, 3))
    params = stage.init(jax.random.PRNGKey(1), x)

    def conv(i, x):
        p = params["params"][f"Conv_{i}"]
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, p["kernel"], (1, 1), "SAME", dimension_numbers=dims) + p["bias"]

    y = np.pad(conv(0, x), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    pooled = np.max([y[:, i : i + 9 : 2, j : j + 9 : 2] for i in range(3) for j in range(3)], axis=0)
    for block in (1, 3):
        pooled = pooled + conv(block + 1, jax.nn.relu(conv(block, jax.nn.relu(pooled))))
    np.testing.assert_allclose(stage.apply(params, x), np.maximum(pooled, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.numeric
def test_prefix_and_rest_equal_the_whole_encoder():
    encoder = encoders.make_encoder("data_efficient", encoders.UNIFORM)
    x = jax.random.uniform(jax.random.PRNGKey(0), (2, 42, 42, 4))
    params = encoder.init(jax.random.PRNGKey(1), x)
    for name in encoder.names:
        prefix, rest = encoder.split_after(name)
        assert prefix.names + rest.names == encoder.names
        np.testing.assert_array_equal(rest.apply(params, prefix.apply(params, x)), encoder.apply(params, x))


def test_delta_orthogonal_kernels_are_orthogonal_at_the_centre_and_zero_elsewhere():
    stage = encoders.ConvStage(32, 3, 1, encoders.DELTA_ORTHOGONAL)
    params = stage.init(jax.random.PRNGKey(0), jnp.zeros((1, 8, 8, 9)))["params"]["Conv_0"]
    kernel = np.array(params["kernel"])
    centre = kernel[1, 1].copy()
    np.testing.assert_allclose(centre @ centre.T, 2 * np.eye(9), atol=1e-5)
    kernel[1, 1] = 0
    assert not kernel.any()
    assert not np.any(params["bias"])


@pytest.mark.numeric
def test_dense_norm_equals_numpy():
    layer = encoders.DenseNorm(6)
    x = jax.random.normal(jax.random.PRNGKey(0), (4, 3, 5, 2))
    params = layer.init(jax.random.PRNGKey(1), x)
    out = layer.apply(params, x)
    p = params["params"]["Dense_0"]
    hidden = np.asarray(x).reshape(4, -1) @ p["kernel"] + p["bias"]
    expected = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["data_efficient", "sac_ae"])
def test_bfloat16_encoder_is_close_to_float32_and_returns_float32(name):
    exact, rounded = (encoders.make_encoder(name, encoders.UNIFORM, dtype) for dtype in ("float32", "bfloat16"))
    x = jax.random.uniform(jax.random.PRNGKey(1), (2, 30, 30, 4))
    params = exact.init(jax.random.PRNGKey(0), x)
    gradients = jax.grad(lambda p: jnp.sum(rounded.apply(p, x)))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    out = rounded.apply(params, x)
    assert out.dtype == jnp.float32
    difference = np.abs(out - exact.apply(params, x)).max() / np.abs(out).max()
    assert 0 < difference < 0.02
    products = re.findall(
        r"= stablehlo\.(?:convolution|dot_general).*-> tensor<\S*x(\w+)>",
        jax.jit(rounded.apply).lower(params, x).as_text(),
    )
    assert products
    assert set(products) == {"bf16"}


@pytest.mark.numeric
@pytest.mark.parametrize("size", [(84, 84), (21, 42), (11, 5), (1, 2)])
def test_pooling_and_its_gradient_equal_flax(size):
    def flax_pool(x):
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")

    x = jax.random.normal(jax.random.PRNGKey(0), (2, *size, 3))
    pooled, backward = jax.vjp(encoders.max_pool, x)
    expected, expected_backward = jax.vjp(flax_pool, x)
    np.testing.assert_array_equal(pooled, expected)
    gradient = jax.random.normal(jax.random.PRNGKey(1), pooled.shape)
    np.testing.assert_allclose(backward(gradient)[0], expected_backward(gradient)[0], rtol=1e-4, atol=1e-6)
