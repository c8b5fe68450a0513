"""Attention maps against a naive twin, and their pictures."""

import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.analysis.attention import overlay, spatial_attention


def naive_spatial_attention(features):
    height, width, channels = features.shape
    means = {(i, j): sum(abs(features[i, j])) / channels for i in range(height) for j in range(width)}
    total = sum(np.exp(mean) for mean in means.values())
    return [[np.exp(means[i, j]) / total for j in range(width)] for i in range(height)]


@pytest.mark.numeric
def test_attention_equals_twin():
    features = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6))
    maps = spatial_attention(jnp.asarray(features, jnp.float32))
    assert maps.shape == (2, 3, 4, 5)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(maps[i, j], naive_spatial_attention(features[i, j]), rtol=1e-5)


@pytest.mark.numeric
def test_attention_depends_on_magnitude_alone_and_does_not_overflow():
    features = np.full((2, 3, 4), -0.1, np.float32)
    features[1, 2] = [-500, 500, -500, 500]
    hot = spatial_attention(jnp.asarray(features))
    np.testing.assert_allclose(hot.sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(hot[1, 2], 1.0, rtol=1e-6)
    np.testing.assert_allclose(spatial_attention(jnp.zeros((2, 3, 4))), 1 / 6, rtol=1e-6)


def test_attention_of_features_without_positions_raises():
    with pytest.raises(ValueError, match=r"shape \[8, 16\] have no positions"):
        spatial_attention(jnp.zeros((8, 16)))


def test_overlay_is_brightest_where_the_map_is_highest():
    frame = np.full((12, 18), 100, np.uint8)
    attention = jnp.zeros((2, 3)).at[0, 2].set(0.7)
    picture = overlay(frame, attention)
    assert picture.shape == (12, 18, 3)
    assert picture.dtype == np.uint8
    # Half grey and half black, the first colour; and in the highest corner half grey and half the last colour.
    np.testing.assert_allclose(picture[-1, 0], 50, atol=2)
    np.testing.assert_allclose(picture[0, -1], 0.5 * 100 + 0.5 * np.asarray([252, 255, 164]), atol=1)
    green = picture[..., 1].astype(int)
    assert np.all(np.diff(green[0]) >= 0)  # colours change gradually towards that corner
    assert len(np.unique(green[0])) > 4
    assert (frame == 100).all()


def test_overlay_does_not_depend_on_the_range_of_the_map():
    rng = np.random.default_rng(0)
    frame, attention = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8), rng.uniform(size=(5, 5))
    picture = overlay(frame, jnp.asarray(attention))
    # Not exactly: rounding of the map may take it over the border between two colours.
    shifted = overlay(frame, jnp.asarray(3e-3 * attention + 0.01)).astype(int)
    np.testing.assert_allclose(shifted, picture, atol=4)
    flat, first_colour = overlay(frame, jnp.full((5, 5), 0.04)), np.asarray([0.4, 0.1, 3.5])
    np.testing.assert_allclose(flat, 0.5 * frame + 0.5 * first_colour, atol=0.6)


def test_overlay_of_a_grey_frame_equals_that_of_three_equal_channels():
    rng = np.random.default_rng(1)
    frame, attention = rng.integers(0, 256, (9, 11)).astype(np.uint8), jnp.asarray(rng.uniform(size=(3, 4)))
    picture = overlay(np.repeat(frame[..., None], 3, axis=2), attention)
    np.testing.assert_array_equal(overlay(frame, attention), picture)


@pytest.mark.parametrize(
    ("frame", "attention", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), jnp.zeros((2, 2)), r"frame is uint8\[4, 4, 4\]"),
        (np.zeros((4, 4), np.float32), jnp.zeros((2, 2)), r"frame is float32\[4, 4\]"),
        (np.zeros((4, 4), np.uint8), jnp.zeros((1, 2, 2)), r"shape \[1, 2, 2\] is not one map"),
    ],
)
def test_overlay_of_invalid_frame_or_map_raises(frame, attention, message):
    with pytest.raises(ValueError, match=message):
        overlay(frame, attention)
