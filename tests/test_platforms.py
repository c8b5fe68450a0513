"""The forms of an operation agree; which form a platform gets is read from programs lowered for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax import platforms
from seer_jax.networks import heads
from tests.helpers.arrays import normal


def lowered_for(platform, fn, *args):
    return jax.jit(fn).trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.numeric
@pytest.mark.parametrize(("size", "patch", "channels"), [(84, 5, 4), (16, 5, 3)])
def test_forms_of_a_patch_convolution_and_their_gradients_agree(size, patch, channels):
    x, kernel = normal(2, size, size, channels), normal(patch, patch, channels, 8, seed=1)

    @jax.jit
    def values_and_gradients(x, kernel):
        forms = (platforms._patch_product, platforms._strided_convolution)
        return [jax.value_and_grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1))(x, kernel) for f in forms]

    (product, product_grads), (convolution, convolution_grads) = values_and_gradients(x, kernel)
    np.testing.assert_allclose(product, convolution, rtol=1e-3, atol=1e-2)
    for ours, theirs in zip(product_grads, convolution_grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("platform", "images", "convolutions"), [("cpu", 2, 0), ("cuda", 2, 0), ("tpu", 2, 1), ("tpu", 1, 0)]
)
def test_patches_of_several_images_are_a_convolution_on_a_tpu_alone(platform, images, convolutions):
    text = lowered_for(platform, platforms.patch_convolution, normal(images, 10, 10, 3), normal(5, 5, 3, 4))
    assert text.count("stablehlo.convolution") == convolutions
    assert text.count("stablehlo.dot_general") == 1 - convolutions
    assert ("HIGH" in text) == (platform == "tpu")


@pytest.mark.numeric
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("size", "sizes", "channels", "batch"), [(84, (5, 5), 4, 4), (31, (2, 3), 3, 1), (40, (2, 2, 2), 6, 3)]
)
def test_nested_patches_give_what_one_layer_after_another_gives(size, sizes, channels, batch, dtype):
    x = np.random.default_rng(0).integers(0, 256, (batch, size, size, channels)).astype(dtype)
    widths = (channels, 8, 6, 5)
    layers = tuple(
        (normal(p, p, widths[i], widths[i + 1], seed=i) * 0.1, normal(widths[i + 1], seed=9))
        for i, p in enumerate(sizes)
    )

    @jax.jit
    def values_and_gradients(layers):
        forms = (platforms._nested_patch_products, platforms._one_after_another)
        prepare = lambda x: x.astype(jnp.float32) / 255.0  # noqa: E731
        return [jax.value_and_grad(lambda a, f=f: jnp.sum(jnp.sin(f(prepare, x, a))))(layers) for f in forms]

    (nested, nested_grads), (stepwise, stepwise_grads) = values_and_gradients(layers)
    np.testing.assert_allclose(nested, stepwise, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(jax.tree.leaves(nested_grads), jax.tree.leaves(stepwise_grads), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("platform", "loops", "convolutions"), [("cpu", 1, 0), ("cuda", 0, 0), ("tpu", 0, 2)])
def test_patches_are_nested_on_the_cpu_alone(platform, loops, convolutions):
    x, layers = np.zeros((2, 10, 10, 4), np.uint8), [(normal(2, 2, 4, 3), normal(3)), (normal(2, 2, 3, 5), normal(5))]
    text = lowered_for(platform, functools.partial(platforms.patch_convolutions, prepare=jnp.float32), x, layers)
    assert text.count("stablehlo.while") == loops
    assert text.count("stablehlo.convolution") == convolutions
    assert text.count("stablehlo.dot_general") == 2 - convolutions


@pytest.mark.parametrize(("platform", "precision"), [("cpu", "DEFAULT"), ("cuda", "DEFAULT"), ("tpu", "HIGH")])
def test_product_takes_three_passes_on_a_tpu_alone(platform, precision):
    gradient = jax.grad(lambda x, y: jnp.sum(jnp.sin(platforms.product(x, y))), argnums=(0, 1))
    text = lowered_for(platform, gradient, normal(4, 3), normal(3, 2))
    assert text.count(f"precision = [{precision}, {precision}]") == text.count("stablehlo.dot_general") == 3


@pytest.mark.parametrize(("platform", "loops"), [("cpu", 1), ("cuda", 0), ("tpu", 0)])
def test_mapping_apart_is_a_loop_on_the_cpu_alone(platform, loops):
    x = normal(4, 3)
    text = lowered_for(platform, lambda x: platforms.map_apart(jnp.sin, x, batch_size=2), x)
    assert text.count("stablehlo.while") == loops
    np.testing.assert_array_equal(platforms.map_apart(jnp.sin, x, batch_size=2), jax.vmap(jnp.sin)(x))


@pytest.mark.parametrize(("platform", "selects"), [("cpu", True), ("cuda", True), ("tpu", False)])
def test_copy_branches_on_a_tpu_alone(platform, selects):
    new, old = {"a": normal(3)}, {"a": normal(3, seed=1)}
    text = lowered_for(platform, platforms.copy_if, jnp.asarray(True), new, old)
    assert ("stablehlo.select" in text) == selects
    for form in (platforms._select, platforms._branch):
        for condition, expected in ((True, new), (False, old)):
            np.testing.assert_array_equal(form(jnp.asarray(condition), new, old)["a"], expected["a"])


@pytest.mark.numeric
def test_noises_drawn_together_equal_noise_drawn_alone():
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    alone = np.stack([heads.draw_noise(key, (37,)) for key in keys])
    np.testing.assert_allclose(jax.jit(heads.draw_noises, static_argnums=1)(keys, 37), alone, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("platform", "loops"), [("cpu", 0), ("cuda", 0), ("tpu", 1)])
def test_forms_of_writing_a_row_if_a_condition_holds_agree_alone_and_mapped(platform, loops):
    rows, row = (
        {"a": normal(3, 5, 2), "b": jnp.arange(15).reshape(3, 5)},
        {"a": normal(3, 2, seed=1), "b": jnp.ones(3, int)},
    )
    conditions, slots = jnp.array([True, False, True]), jnp.array([4, 1, 0])
    expected = jax.tree.map(np.array, rows)
    for i in np.flatnonzero(conditions):
        for name, values in expected.items():
            values[i, slots[i]] = row[name][i]
    several = conditions, rows, row, slots
    for form in (platforms._write_selected, platforms._write_one):
        jax.tree.map(np.testing.assert_array_equal, jax.jit(jax.vmap(form))(*several), expected)
        for i in range(3):
            alone = jax.tree.map(lambda x, i=i: x[i], several)
            jax.tree.map(
                np.testing.assert_array_equal, jax.jit(form)(*alone), jax.tree.map(lambda x, i=i: x[i], expected)
            )
    assert lowered_for(platform, jax.vmap(platforms.write_if), *several).count("stablehlo.while") == loops
