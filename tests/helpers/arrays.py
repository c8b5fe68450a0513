"""Random arrays, and parameters of modules, that take no time to compile."""

from typing import Any

import jax
import numpy as np


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns standard normals, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_like(shapes: Any, scale: float = 0.3, seed: int = 0) -> Any:
    """Returns a tree of normals with the shapes and types of another; no bias is 0."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, scale, x.shape).astype(x.dtype), shapes)


def random_params(module: Any, *inputs: Any) -> Any:
    """Returns random parameters of anything with `init(key, *inputs)`."""
    return random_like(jax.eval_shape(module.init, jax.random.PRNGKey(0), *inputs))
