"""SVCCA against constructed cases and a naive twin."""

import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.analysis.svcca import flatten_positions, svcca

pytestmark = pytest.mark.numeric


def gaussians(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def orthogonal(size, seed=0):
    return np.linalg.qr(gaussians(size, size, seed=seed))[0]


def naive_svcca(x, y, variance):
    """By covariances: principal components, and eigenvalues of Cxx^-1 Cxy Cyy^-1 Cyx, squared correlations."""

    def reduce(x):
        x = x - x.mean(axis=0)
        values, vectors = np.linalg.eigh(x.T @ x)
        values, vectors = values[::-1], vectors[:, ::-1]
        kept = next(k for k in range(1, len(values) + 1) if values[:k].sum() >= (variance - 1e-12) * values.sum())
        return x @ vectors[:, :kept]

    x, y = reduce(x), reduce(y)
    cxx, cxy, cyy = x.T @ x, x.T @ y, y.T @ y
    squares = np.linalg.eigvals(np.linalg.inv(cxx) @ cxy @ np.linalg.inv(cyy) @ cxy.T).real
    largest = np.sort(squares)[::-1][: min(x.shape[1], y.shape[1])]
    return np.sqrt(np.clip(largest, 0, 1)).mean()


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_svcca_equals_the_twin(seed, variance):
    rng = np.random.default_rng(seed)
    size_x, size_y, shared = rng.integers(2, 12, 3)
    common = rng.normal(size=(200, shared))
    x, y = (
        common @ rng.normal(size=(shared, size)) + rng.uniform(0.1, 2) * rng.normal(size=(200, size)) + 5.0
        for size in (size_x, size_y)
    )
    got = svcca(x, y, variance)
    np.testing.assert_allclose(got, naive_svcca(x, y, variance), rtol=1e-6)
    np.testing.assert_allclose(svcca(y, x, variance), got, rtol=1e-9)


def test_svcca_of_a_layer_with_itself_is_one_and_never_more():
    x = gaussians(300, 10)
    for variance in (0.5, 0.99, 1.0):
        np.testing.assert_allclose(svcca(x, x, variance), 1.0, rtol=1e-9)
        np.testing.assert_allclose(svcca(x, 3 * x @ orthogonal(10) - 7, variance), 1.0, rtol=1e-9)
    np.testing.assert_allclose(svcca(x, x @ gaussians(10, 10, seed=1) + 2, 1.0), 1.0, rtol=1e-9)
    assert max(svcca(x, x) for x in gaussians(30, 300, 10)) <= 1.0  # rounding takes half of them past it


def test_svcca_of_unrelated_layers_is_what_chance_gives():
    """Singular values of the product of random bases follow a quarter circle, whose mean is 8/(3 pi) sqrt(F/N)."""
    x, y = gaussians(1600, 40), gaussians(1600, 40, seed=1)
    np.testing.assert_allclose(svcca(x, y, 1.0), 8 / (3 * np.pi) * np.sqrt(40 / 1600), rtol=0.03)


def uncorrelated(inputs, features):
    """Returns features that are exactly uncorrelated."""
    return np.linalg.qr(gaussians(inputs, features) - gaussians(inputs, features).mean(axis=0))[0]


def test_svcca_of_layers_that_share_half_their_directions_is_a_half():
    shared, x_own, y_own = np.split(uncorrelated(200, 30), 3, axis=1)
    x = np.concatenate([shared, x_own], axis=1) @ orthogonal(20)
    y = np.concatenate([y_own, shared], axis=1) @ orthogonal(20, seed=1)
    np.testing.assert_allclose(svcca(x, y, 1.0), 0.5, atol=1e-6)


def test_svcca_is_a_mean_over_the_smaller_spaces_directions():
    x = gaussians(500, 12)
    np.testing.assert_allclose(svcca(x, x[:, :4], 1.0), 1.0, rtol=1e-9)


def test_svcca_ignores_directions_of_less_variance_than_is_dropped():
    signal, *noises = gaussians(3, 2000, 20)
    signal[:, 4:] = 0
    x, y = (signal + 0.01 * noise for noise in noises)
    assert svcca(x, y, 0.99) > 0.999
    assert svcca(x, y, 1.0) < 0.35


@pytest.mark.parametrize(("second", "expected"), [(1.0, 1.0), (1.01, 0.5)])
def test_svcca_keeps_the_fewest_directions_by_variance(second, expected):
    """Standard deviations of 9.95 and 1 are 0.99 and 0.01 of the variance: the second direction just goes, or stays."""
    first, x_own, y_own = uncorrelated(100, 3).T
    x, y = (np.stack([9.95 * first, second * own], axis=1) for own in (x_own, y_own))
    np.testing.assert_allclose(svcca(x, y, 0.99), expected, atol=1e-9)


def test_svcca_does_not_depend_on_constant_repeated_or_shifted_features():
    x, y = gaussians(300, 6), gaussians(300, 6, seed=1)
    x += 0.5 * y
    expected = svcca(x, y, 1.0)
    dead = np.concatenate([x, np.full((300, 3), 0.1), np.zeros((300, 1)), x[:, :2] + x[:, 2:4]], axis=1)
    np.testing.assert_allclose(svcca(dead, y, 1.0), expected, rtol=1e-9)
    np.testing.assert_allclose(svcca(x + 1e6, y, 1.0), expected, rtol=1e-6)


def test_svcca_of_float32_arrays_equals_that_of_float64():
    x, y = (jnp.asarray(gaussians(100, 5, seed=seed), jnp.float32) for seed in (0, 1))
    np.testing.assert_allclose(svcca(x, y), svcca(np.float64(x), np.float64(y)), rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "variance", "message"),
    [
        (gaussians(50, 3), gaussians(49, 3), 0.99, r"x has shape \[50, 3\] and y \[49, 3\]"),
        (gaussians(50, 2, 2, 3), gaussians(50, 3), 0.99, r"x has shape \[50, 2, 2, 3\]"),
        (gaussians(50, 3), gaussians(50, 3), 0.0, "variance=0.0 is no fraction"),
        (gaussians(50, 3), gaussians(50, 3), 99, "variance=99 is no fraction"),
        (gaussians(50, 3), np.full((50, 3), 0.1), 0.99, "nothing varies in y over its 50 inputs"),
        (gaussians(1, 3), gaussians(1, 3), 0.99, "nothing varies in x over its 1 inputs"),
        (gaussians(50, 3), np.full((50, 3), np.nan), 0.99, "y holds values that are not finite"),
        (gaussians(20, 10), gaussians(20, 10, seed=1), 1.0, r"N=20 inputs are too few for the 10 \+ 10 directions"),
        (gaussians(20, 64), gaussians(20, 2, seed=1), 1.0, r"N=20 inputs are too few for the 19 \+ 2 directions"),
    ],
)
def test_svcca_of_invalid_input_raises(x, y, variance, message):
    with pytest.raises(ValueError, match=message):
        svcca(x, y, variance)


def test_svcca_accepts_just_enough_inputs():
    assert svcca(gaussians(21, 10), gaussians(21, 10, seed=1), 1.0) < 1.0


def test_flatten_positions_makes_an_input_of_every_position():
    features = gaussians(2, 3, 4, 5)
    rows = [features[n, i, j] for n in range(2) for i in range(3) for j in range(4)]
    np.testing.assert_array_equal(flatten_positions(features), rows)
    with pytest.raises(ValueError, match=r"shape \[2, 5\]: expected \[N, H, W, C\]"):
        flatten_positions(gaussians(2, 5))
