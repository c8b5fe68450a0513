"""Similarity of two representations of the same inputs, by singular vector canonical correlation analysis.

Raghu et al. 2017, https://arxiv.org/abs/1706.05806. In float64, on the host.
"""

import numpy as np


def svcca(x: np.ndarray, y: np.ndarray, variance: float = 0.99) -> float:
    """Mean canonical correlation of the directions that matter in two representations.

    Each is centred and reduced to the fewest principal directions that hold `variance` of its variance (squared
    singular values). The canonical correlations of two spaces are the singular values of the product of orthonormal
    bases of them (Björck and Golub 1973, https://doi.org/10.1090/S0025-5718-1973-0348991-3), and the mean is over as
    many as the smaller space has directions. Features that do not vary count for nothing. Of unrelated representations
    of F directions each it is about `0.85 sqrt(F / N)`, not 0.

    Args:
      x: `[N, F1]` activations.
      y: `[N, F2]` activations on the same N inputs, in the same order.
      variance: fraction that is kept, above 0 and at most 1.

    Returns:
      Between 0 and 1; 1 if one of the reduced spaces holds the other.

    Raises:
      ValueError: shapes, values or `variance` are not as above; nothing varies in x or in y; or N - 1 is less than the
        number of directions kept of both together, so that some correlations are 1 whatever x and y are.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"x has shape {list(x.shape)} and y {list(y.shape)}: expected [N, F1] and [N, F2], one N")
    if not 0 < variance <= 1:
        raise ValueError(f"variance={variance} is no fraction to keep: expected above 0 and at most 1")
    x_basis, y_basis = _principal_basis(x, "x", variance), _principal_basis(y, "y", variance)
    kept = x_basis.shape[1] + y_basis.shape[1]
    if len(x) - 1 < kept:
        raise ValueError(
            f"N={len(x)} inputs are too few for the {x_basis.shape[1]} + {y_basis.shape[1]} directions kept: some "
            f"correlations would be 1 whatever the layers do; use far more than {kept}, or a smaller variance"
        )
    correlations = np.linalg.svd(x_basis.T @ y_basis, compute_uv=False)
    return float(np.minimum(correlations, 1.0).mean())


def flatten_positions(features: np.ndarray) -> np.ndarray:
    """Maps `[N, H, W, C]` to `[N * H * W, C]`: a convolution's channels are its features, and each position an input.

    What Raghu et al. 2017 do to compare a convolutional layer with the same one at another time of training.

    Raises:
      ValueError: the features have another rank.
    """
    if features.ndim != 4:
        raise ValueError(f"features have shape {list(features.shape)}: expected [N, H, W, C]")
    return features.reshape(-1, features.shape[-1])


def _principal_basis(x: np.ndarray, name: str, variance: float) -> np.ndarray:
    """Returns `[N, K]`, an orthonormal basis of the K principal directions over inputs that hold `variance`."""
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds values that are not finite")
    basis, singular, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    rounding = np.linalg.norm(x) * max(x.shape) * np.finfo(x.dtype).eps
    energy = np.cumsum(np.square(singular[singular > rounding]))
    if not energy.size:
        raise ValueError(f"nothing varies in {name} over its {len(x)} inputs, as in a layer that died: no similarity")
    return basis[:, : np.searchsorted(energy, variance * energy[-1]) + 1]
