"""Centred kernel alignment."""

import numpy as np
import pytest

from seer_jax.analysis.cka import linear_cka

pytestmark = pytest.mark.numeric


def naive_cka(x, y):
    """Linear CKA from the covariances of the features, in float64: Kornblith et al. 2019, equation 5."""
    x, y = (np.asarray(each, np.float64) - np.mean(each, axis=0, dtype=np.float64) for each in (x, y))
    return np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 20)).astype(np.float32) + 3.0
    return x, np.concatenate([x[:, :12], rng.standard_normal((60, 5)).astype(np.float32)], axis=1)


def test_cka_is_that_of_the_covariances(features):
    np.testing.assert_allclose(linear_cka(*features), naive_cka(*features), rtol=1e-5)


@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e8])
def test_rotation_shift_and_factor_do_not_change_cka(features, factor):
    x, y = features
    rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((20, 20)))
    moved = ((x @ rotation + 5.0) * factor).astype(np.float32)
    np.testing.assert_allclose(linear_cka(moved, y), naive_cka(x, y), rtol=1e-4)
    np.testing.assert_allclose(linear_cka(moved, x), 1.0, rtol=1e-5)


def test_features_that_do_not_vary_are_like_nothing(features):
    for constant in (np.full((60, 7), 2.3), np.zeros((60, 7))):
        assert linear_cka(features[0], constant) == 0.0
        assert linear_cka(constant, constant) == 0.0
