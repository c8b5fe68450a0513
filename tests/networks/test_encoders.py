"""Encoders against direct computations."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.networks import cpu_ops, encoders, initializers
from tests.helpers.arrays import normal, random_params


@pytest.mark.numeric
@pytest.mark.parametrize(("size", "patch", "channels"), [(84, 5, 4), (42, 5, 4), (16, 5, 32), (7, 7, 1)])
def test_patch_product_equals_convolution(size, patch, channels):
    x, layer = normal(2, size, size, channels), cpu_ops.PatchConv(8, patch)
    params = random_params(layer, x)
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    dims = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    expected = jax.lax.conv_general_dilated(x, kernel, (patch, patch), "VALID", dimension_numbers=dims) + bias
    np.testing.assert_allclose(jax.jit(layer.apply)(params, x), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "latent"),
    [("data_efficient", 84, 576), ("data_efficient", 42, 64), ("canonical", 84, 3136), ("canonical", 42, 64)],
)
def test_output_shape_equals_shape_of_the_output(name, size, latent):
    encoder = encoders.make_encoder(name, initializers.UNIFORM)
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
    assert math.prod(encoders.make_encoder(name, initializers.UNIFORM).output_shape((8, 8, 4))) == 0


@pytest.mark.numeric
def test_white_pixels_enter_the_encoder_as_ones():
    encoder = encoders.make_encoder("data_efficient", initializers.UNIFORM)
    white = np.full((1, 84, 84, 4), 255, np.uint8)
    params = random_params(encoder, white.astype(np.float32))
    conv1, conv2 = (params[name]["params"]["PatchConv_0"] for name in ("conv1", "conv2"))
    hidden = np.maximum(conv1["kernel"].sum(axis=(0, 1, 2)) + conv1["bias"], 0)
    expected = np.maximum(np.einsum("c,pqcf->f", hidden, conv2["kernel"]) + conv2["bias"], 0)
    latent = jax.jit(lambda params, images: encoders.flatten(encoder.apply(params, encoders.to_float(images))))
    np.testing.assert_allclose(latent(params, white), np.tile(expected, 9)[None], rtol=1e-4, atol=1e-3)


def params_of(encoder, shape):
    return jax.eval_shape(encoder.init, jax.random.PRNGKey(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32))


@pytest.mark.parametrize(("size", "features"), [(84, (35, 35, 32)), (42, (14, 14, 32))])
def test_sac_ae_encoder_has_its_published_shapes(size, features):
    encoder = encoders.make_encoder("sac_ae", initializers.DELTA_ORTHOGONAL)
    assert encoder.output_shape((size, size, 9)) == features
    assert encoder.names == ("conv1", "conv2", "conv3", "conv4")


@pytest.mark.parametrize(("name", "latent"), [("impala", (11, 11, 32)), ("impoola", (32,))])
@pytest.mark.parametrize("width", [1, 4])
def test_width_multiplies_the_channels_of_an_encoder_of_residual_sections(name, latent, width):
    encoder = encoders.make_encoder(name, initializers.UNIFORM, width=width)
    assert encoder.output_shape((84, 84, 4)) == (*latent[:-1], width * latent[-1])
    kernels = [x.shape for x in jax.tree.leaves(params_of(encoder, (84, 84, 4))) if x.ndim == 4]
    assert {shape[-1] for shape in kernels} == {16 * width, 32 * width}
    assert encoder.names == ("section1", "section2", "section3")


@pytest.mark.numeric
def test_pooled_encoder_is_the_mean_over_the_image_of_the_one_that_does_not_pool():
    whole, pooled = (encoders.make_encoder(name, initializers.UNIFORM) for name in ("impala", "impoola"))
    images = np.random.default_rng(0).integers(0, 255, (2, 24, 20, 4)).astype(np.uint8)
    params = random_params(whole, images.astype(np.float32))
    expected = np.float64(jax.jit(whole.apply)(params, images)).mean(axis=(1, 2))
    found = jax.jit(pooled.apply)(params, images)
    assert found.shape == (2, 32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_impala_encoder_has_fifteen_convolutions():
    encoder = encoders.make_encoder("impala", initializers.DELTA_ORTHOGONAL)
    kernels = [x.shape for x in jax.tree.leaves(params_of(encoder, (84, 84, 9))) if x.ndim == 4]
    assert len(kernels) == 15
    assert all(shape[:2] == (3, 3) for shape in kernels)
    assert encoder.output_shape((84, 84, 9)) == (11, 11, 32)
    assert encoder.names == ("section1", "section2", "section3")


@pytest.mark.numeric
def test_residual_stage_equals_its_steps_one_by_one():
    x, stage = normal(2, 9, 9, 3), encoders.ResidualStage(4, last=True)
    params = random_params(stage, x)

    @jax.jit
    def conv(p, x):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, p["kernel"], (1, 1), "SAME", dimension_numbers=dims) + p["bias"]

    first, *blocks = (params["params"][f"Conv_{i}"] for i in range(5))
    y = np.pad(conv(first, x), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    x_out = np.max([y[:, i : i + 9 : 2, j : j + 9 : 2] for i in range(3) for j in range(3)], axis=0)
    for inner, outer in (blocks[:2], blocks[2:]):
        x_out = x_out + conv(outer, np.maximum(conv(inner, np.maximum(x_out, 0)), 0))
    np.testing.assert_allclose(jax.jit(stage.apply)(params, x), np.maximum(x_out, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.numeric
def test_prefix_and_rest_equal_the_whole_encoder():
    encoder = encoders.make_encoder("data_efficient", initializers.UNIFORM)
    x = normal(2, 42, 42, 4)
    params = random_params(encoder, x)
    whole = jax.jit(encoder.apply)(params, x)
    for name in encoder.names:
        prefix, rest = encoder.split_after(name)
        assert prefix.names + rest.names == encoder.names
        np.testing.assert_allclose(rest.apply(params, prefix.apply(params, x)), whole, rtol=1e-5, atol=1e-5)


def test_delta_orthogonal_kernels_are_orthogonal_at_the_centre_and_zero_elsewhere():
    stage = encoders.ConvStage(32, 3, 1, initializers.DELTA_ORTHOGONAL)
    params = jax.jit(stage.init)(jax.random.PRNGKey(0), jnp.zeros((1, 8, 8, 9)))["params"]["Conv_0"]
    kernel = np.array(params["kernel"])
    centre = kernel[1, 1].copy()
    np.testing.assert_allclose(centre @ centre.T, 2 * np.eye(9), atol=1e-5)
    kernel[1, 1] = 0
    assert not kernel.any()
    assert not np.any(params["bias"])


@pytest.mark.numeric
def test_dense_norm_equals_numpy():
    x, layer = normal(4, 3, 5, 2), encoders.DenseNorm(6)
    params = random_params(layer, x)
    dense, norm = params["params"]["Dense_0"], params["params"]["LayerNorm_0"]
    hidden = x.reshape(4, -1) @ dense["kernel"] + dense["bias"]
    expected = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-5)
    expected = expected * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(jax.jit(layer.apply)(params, x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["data_efficient", "sac_ae"])
def test_bfloat16_encoder_is_close_to_float32_and_returns_float32(name):
    exact, rounded = (encoders.make_encoder(name, initializers.UNIFORM, dtype) for dtype in ("float32", "bfloat16"))
    x = np.random.default_rng(0).uniform(size=(2, 30, 30, 4)).astype(np.float32)
    params = jax.jit(exact.init)(jax.random.PRNGKey(0), x)
    gradients = jax.eval_shape(jax.grad(lambda p: jnp.sum(rounded.apply(p, x))), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    program = jax.jit(rounded.apply).lower(params, x)
    out = program.compile()(params, x)
    assert out.dtype == jnp.float32
    difference = np.abs(out - jax.jit(exact.apply)(params, x)).max() / np.abs(out).max()
    assert 0 < difference < 0.02
    products = re.findall(r"= stablehlo\.(?:convolution|dot_general).*-> tensor<\S*x(\w+)>", program.as_text())
    assert products
    assert set(products) == {"bf16"}


@pytest.mark.numeric
@pytest.mark.parametrize("size", [(84, 84), (21, 42), (11, 5), (1, 2)])
def test_pooling_and_its_gradient_equal_flax(size):
    def flax_pool(x):
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")

    x = normal(2, *size, 3)
    gradient = normal(*jax.eval_shape(flax_pool, x).shape, seed=1)

    @jax.jit
    def pooled_and_gradient(x, gradient):
        return [(y, backward(gradient)[0]) for y, backward in (jax.vjp(f, x) for f in (cpu_ops.max_pool, flax_pool))]

    (ours, ours_backward), (flax, flax_backward) = pooled_and_gradient(x, gradient)
    np.testing.assert_array_equal(ours, flax)
    np.testing.assert_allclose(ours_backward, flax_backward, rtol=1e-4, atol=1e-6)
