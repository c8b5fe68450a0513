"""Encoders and heads against direct computations."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import curl_haiku
from seer_jax.networks import encoders, haiku, heads


@pytest.mark.parametrize(("size", "patch", "channels"), [(84, 5, 4), (42, 5, 4), (16, 5, 32), (7, 7, 1)])
def test_patch_product_equals_the_convolution(size, patch, channels):
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
def test_latent_size_is_the_size_of_the_latent(name, size, latent):
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
def test_images_too_small_have_no_latent(name):
    assert math.prod(encoders.make_encoder(name, encoders.UNIFORM).output_shape((8, 8, 4))) == 0


def test_pixels_are_scaled_to_one():
    encoder = encoders.make_encoder("data_efficient", encoders.UNIFORM)
    white = encoders.to_float(jnp.full((1, 84, 84, 4), 255, jnp.uint8))
    params = encoder.init(jax.random.PRNGKey(0), white)
    conv1, conv2 = (params[name]["params"]["PatchConv_0"] for name in ("conv1", "conv2"))
    hidden = jax.nn.relu(conv1["kernel"].sum(axis=(0, 1, 2)) + conv1["bias"])
    out = jax.nn.relu(jnp.einsum("c,pqcf->f", hidden, conv2["kernel"]) + conv2["bias"])
    latent = encoders.flatten(encoder.apply(params, white))
    np.testing.assert_allclose(latent, jnp.tile(out, 9)[None], rtol=1e-4, atol=1e-5)


def noisy_layer():
    layer = heads.NoisyDense(features=3, noise_std=0.5)
    x = jax.random.normal(jax.random.PRNGKey(1), (4, 5))
    return layer, layer.init(jax.random.PRNGKey(0), x, None), x


def test_noisy_layer_is_factorised():
    layer, params, x = noisy_layer()
    p = jax.tree.map(np.asarray, params["params"])
    by_input, by_output = [1, -2, 3, 0, 4], [2, -1, 0]
    kernel = p["kernel"] + p["kernel_std"] * np.outer(by_input, by_output)
    expected = x @ kernel + p["bias"] + p["bias_std"] * by_output
    noise = np.float32([*by_input, *by_output])
    np.testing.assert_allclose(layer.apply(params, x, noise), expected, rtol=1e-5, atol=1e-5)


def test_noise_is_the_signed_root_of_normals(monkeypatch):
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.float32([1, -4, 9, 0]).reshape(shape))
    np.testing.assert_array_equal(heads.draw_noise(None, (2, 2)), [[1, -2], [3, 0]])


def test_noise_by_row_equals_shared_noise_row_by_row():
    layer, params, x = noisy_layer()
    noise = jax.random.normal(jax.random.PRNGKey(2), (4, 8))
    each = jnp.concatenate([layer.apply(params, x[i : i + 1], noise[i]) for i in range(4)])
    np.testing.assert_allclose(layer.apply(params, x, noise), each, rtol=1e-5, atol=1e-5)


def test_without_noise_the_means_alone_count():
    layer, params, x = noisy_layer()
    p = params["params"]
    np.testing.assert_allclose(layer.apply(params, x, None), x @ p["kernel"] + p["bias"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(p["kernel_std"], 0.5 / np.sqrt(5))
    np.testing.assert_allclose(p["bias_std"], 0.5 / np.sqrt(3))


def test_each_layer_of_the_head_reads_noise_of_its_own():
    head = heads.DuelingC51(num_actions=3, num_atoms=5, hidden=6, noise_std=0.5)
    latent = jax.random.normal(jax.random.PRNGKey(0), (2, 7))
    params = head.init(jax.random.PRNGKey(1), latent)
    sizes = head.noise_sizes(7)
    assert sizes == (7 + 6, 6 + 5, 7 + 6, 6 + 15)
    names = ("value_hidden", "value", "advantage_hidden", "advantage")

    def logits(noise, silent):
        """The head with the noise of one layer's parameters switched off."""
        layers = dict(params["params"])
        for key in ("kernel_std", "bias_std"):
            layers[silent] = layers[silent] | {key: jnp.zeros_like(layers[silent][key])}
        return head.apply({"params": layers}, latent, noise)

    noise = jax.random.normal(jax.random.PRNGKey(2), (sum(sizes),))
    ends = np.cumsum((0, *sizes))
    for name, begin, end in zip(names, ends, ends[1:], strict=False):
        changed = noise.at[begin:end].add(1.0)
        np.testing.assert_array_equal(logits(noise, silent=name), logits(changed, silent=name))
        assert not np.allclose(head.apply(params, latent, noise), head.apply(params, latent, changed))


def test_dueling_head_is_value_plus_centred_advantage():
    head = heads.DuelingC51(num_actions=3, num_atoms=5, hidden=6, noise_std=0.1)
    latent = jax.random.normal(jax.random.PRNGKey(0), (2, 7))
    params = head.init(jax.random.PRNGKey(1), latent)
    layers = params["params"]

    def dense(name, x):
        return x @ layers[name]["kernel"] + layers[name]["bias"]

    value = dense("value", jax.nn.relu(dense("value_hidden", latent)))
    np.testing.assert_allclose(head.apply(params, latent).mean(axis=1), value, rtol=1e-4, atol=1e-5)


def params_of(encoder, shape):
    return jax.eval_shape(encoder.init, jax.random.PRNGKey(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32))


@pytest.mark.parametrize(("size", "features"), [(84, (35, 35, 32)), (42, (14, 14, 32))])
def test_sac_ae_encoder(size, features):
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


def test_residual_stage_against_single_steps():
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


def test_prefix_and_rest_make_the_whole():
    encoder = encoders.make_encoder("data_efficient", encoders.UNIFORM)
    x = jax.random.uniform(jax.random.PRNGKey(0), (2, 42, 42, 4))
    params = encoder.init(jax.random.PRNGKey(1), x)
    for name in encoder.names:
        prefix, rest = encoder.split_after(name)
        assert prefix.names + rest.names == encoder.names
        np.testing.assert_array_equal(rest.apply(params, prefix.apply(params, x)), encoder.apply(params, x))


def test_delta_orthogonal_kernels_keep_lengths_at_their_centre():
    stage = encoders.ConvStage(32, 3, 1, encoders.DELTA_ORTHOGONAL)
    params = stage.init(jax.random.PRNGKey(0), jnp.zeros((1, 8, 8, 9)))["params"]["Conv_0"]
    kernel = np.array(params["kernel"])
    centre = kernel[1, 1].copy()
    np.testing.assert_allclose(centre @ centre.T, 2 * np.eye(9), atol=1e-5)
    kernel[1, 1] = 0
    assert not kernel.any()
    assert not np.any(params["bias"])


def test_dense_norm_normalises():
    layer = encoders.DenseNorm(6)
    x = jax.random.normal(jax.random.PRNGKey(0), (4, 3, 5, 2))
    params = layer.init(jax.random.PRNGKey(1), x)
    out = layer.apply(params, x)
    p = params["params"]["Dense_0"]
    hidden = np.asarray(x).reshape(4, -1) @ p["kernel"] + p["bias"]
    expected = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)


def test_a_haiku_function_is_a_stage():
    encoder = encoders.make_encoder("haiku:configs.curl_haiku:encoder", encoders.UNIFORM)
    x = jax.random.uniform(jax.random.PRNGKey(0), (2, 42, 42, 9))
    params = encoder.init(jax.random.PRNGKey(1), x)
    direct = curl_haiku.encoder.apply(params["haiku"], None, x)
    np.testing.assert_array_equal(encoder.apply(params, x), direct)
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
def test_what_is_no_haiku_function_is_refused(name, message):
    with pytest.raises(haiku.HaikuError, match=message):
        haiku.load(name)


@pytest.mark.parametrize("name", ["data_efficient", "sac_ae"])
def test_an_encoder_that_computes_in_bfloat16_is_nearly_the_same_and_keeps_float32_outside(name):
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


@pytest.mark.parametrize("size", [(84, 84), (21, 42), (11, 5), (1, 2)])
def test_pooling_and_its_gradient_are_those_of_flax(size):
    def flax_pool(x):
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")

    x = jax.random.normal(jax.random.PRNGKey(0), (2, *size, 3))
    pooled, backward = jax.vjp(encoders.max_pool, x)
    expected, expected_backward = jax.vjp(flax_pool, x)
    np.testing.assert_array_equal(pooled, expected)
    gradient = jax.random.normal(jax.random.PRNGKey(1), pooled.shape)
    np.testing.assert_allclose(backward(gradient)[0], expected_backward(gradient)[0], rtol=1e-4, atol=1e-6)
