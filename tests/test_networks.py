"""Encoders and heads against direct computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.networks import encoders, heads


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
    encoder = encoders.ConvEncoder(encoders.STAGES[name])
    obs = jax.ShapeDtypeStruct((3, size, size, 4), jnp.uint8)
    out, params = jax.eval_shape(encoder.init_with_output, jax.random.PRNGKey(0), obs)
    assert out.shape == (3, latent)
    assert out.dtype == jnp.float32
    assert encoders.latent_size(name, size) == latent
    assert set(params["params"]) == {f"conv{i + 1}" for i in range(len(encoders.STAGES[name]))}


@pytest.mark.parametrize("name", list(encoders.STAGES))
def test_images_too_small_have_no_latent(name):
    assert encoders.latent_size(name, 8) == 0


def test_pixels_are_scaled_to_one():
    encoder = encoders.ConvEncoder(encoders.STAGES["data_efficient"])
    white = jnp.full((1, 84, 84, 4), 255, jnp.uint8)
    params = encoder.init(jax.random.PRNGKey(0), white)
    conv1, conv2 = params["params"]["conv1"], params["params"]["conv2"]
    hidden = jax.nn.relu(conv1["kernel"].sum(axis=(0, 1, 2)) + conv1["bias"])
    out = jax.nn.relu(jnp.einsum("c,pqcf->f", hidden, conv2["kernel"]) + conv2["bias"])
    np.testing.assert_allclose(encoder.apply(params, white), jnp.tile(out, 9)[None], rtol=1e-4, atol=1e-5)


def noisy_layer():
    layer = heads.NoisyDense(features=3, noise_std=0.5)
    x = jax.random.normal(jax.random.PRNGKey(1), (4, 5))
    return layer, layer.init(jax.random.PRNGKey(0), x, None), x


def test_noisy_layer_is_factorised():
    layer, params, x = noisy_layer()
    p = jax.tree.map(np.asarray, params["params"])
    noise = np.float32([1, -4, 9, 0, 16, 4, -1, 0])
    eps_in, eps_out = [1, -2, 3, 0, 4], [2, -1, 0]  # sign(x) sqrt(|x|)
    kernel = p["kernel"] + p["kernel_std"] * np.outer(eps_in, eps_out)
    expected = x @ kernel + p["bias"] + p["bias_std"] * eps_out
    np.testing.assert_allclose(layer.apply(params, x, noise), expected, rtol=1e-5, atol=1e-5)


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
