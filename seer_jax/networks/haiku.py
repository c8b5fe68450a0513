"""Any function that `hk.transform` returned, as a stage of an encoder."""

import importlib
from typing import Any, NamedTuple

import haiku as hk
import jax

PREFIX = "haiku:"
_PACKAGE = f"{PREFIX}seer_jax."
# By the names that runs of version 0.1 have in their directories.
_MOVED = {f"{PREFIX}configs.curl_haiku:encoder": f"{_PACKAGE}configs.curl_haiku:encoder"}


class HaikuError(ValueError):
    """A name does not refer to an encoder; the message says what was found."""


class HaikuStage(NamedTuple):
    """A transformed function with the interface of a stage."""

    transformed: hk.Transformed

    def init(self, key: jax.Array, x: jax.Array) -> Any:
        return self.transformed.init(key, x)

    def apply(self, params: Any, x: jax.Array) -> jax.Array:
        return self.transformed.apply(params, None, x)  # an encoder draws no random numbers


def is_shipped(name: str) -> bool:
    """Whether `name`, which starts with `PREFIX`, leads to a function of this package."""
    return _MOVED.get(name, name).startswith(_PACKAGE)


def load(name: str) -> HaikuStage:
    """Imports `haiku:package.module:function`, a function of `[B, H, W, C]` float32 images between 0 and 1.

    Raises:
      HaikuError: it cannot be imported, or was not made by `hk.transform` (without `hk.without_apply_rng`).
    """
    path = _MOVED.get(name, name).removeprefix(PREFIX)
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        raise HaikuError(f"encoder.name={name!r} does not look like {PREFIX}package.module:function")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # the user's module may raise anything
        raise HaikuError(
            f"encoder.name={name!r} cannot be imported: {type(error).__name__}: {error}; run where its package is found"
        ) from None
    if not isinstance(found, hk.Transformed):
        raise HaikuError(
            f"encoder.name={name!r} is a {type(found).__name__}; it must be what hk.transform returned, without state"
        )
    return HaikuStage(found)
