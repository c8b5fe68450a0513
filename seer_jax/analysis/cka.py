"""Similarity of two representations of the same inputs, by centred kernel alignment with linear kernels.

Kornblith et al. 2019, https://arxiv.org/abs/1905.00414, equation 4 and section 3. In float64, on the host.
"""

import numpy as np
from numpy.typing import ArrayLike


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Alignment of two representations; no rotation and no common factor of the features changes it.

    Of representations that have nothing to do with each other it is not 0, and the features of a random network are
    often near those of a trained one: compare it with that of an untrained encoder.

    Args:
      x: `[N, F1]` features.
      y: `[N, F2]` features of the same N inputs, in the same order.

    Returns:
      Between 0 and 1; 1 for equal representations, and 0 if the features of one do not vary.
    """
    x, y = (np.asarray(each, np.float64) for each in (x, y))
    return alignment(x @ x.T, y @ y.T)


def alignment(x_gram: ArrayLike, y_gram: ArrayLike) -> float:
    """Alignment of two representations, from the products of the features of each two inputs.

    Args:
      x_gram: `[N, N]`.
      y_gram: `[N, N]`.

    Returns:
      As `linear_cka`.
    """
    x, y = _centred(x_gram), _centred(y_gram)
    scale = np.linalg.norm(x) * np.linalg.norm(y)
    return float(np.sum(x * y) / scale) if scale > 0 else 0.0


def _centred(products: ArrayLike) -> np.ndarray:
    """Returns the products of the centred features; 0 where they are no more than the rounding of the products."""
    gram = np.asarray(products)
    rounding = 4 * np.finfo(gram.dtype).eps * np.abs(gram).max()
    wide = gram.astype(np.float64)
    means = wide.mean(axis=0)
    centred = wide - means - means[:, None] + means.mean()
    return centred if np.abs(centred).max() > rounding else np.zeros_like(centred)
