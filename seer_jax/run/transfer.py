"""Transfer: the encoder of one run as the start of another with another task, other actions and new heads."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax.agents import base
from seer_jax.config import RunConfig
from seer_jax.run import checkpoint, group, resolve, run_dir

# Both runs must agree on these, so that parameters fit and pixels have the same meaning.
_SHARED_FIELDS = (
    "agent.name",
    "agent.latent_size",
    "encoder.name",
    "encoder.width",
    "env.suite",
    "env.image_size",
    "env.crop_size",
    "env.frame_stack",
    "env.render_quality",
)


class TransferError(ValueError):
    """The encoder of `seer.init_from` cannot be used; the message says why."""


def check(config: RunConfig, source: pathlib.Path) -> None:
    """Checks that a run has an encoder like that of this configuration.

    Args:
      config: the configuration.
      source: directory of the run, `seer.init_from`.

    Raises:
      TransferError: it is not.
    """
    try:
        there = resolve.flat(resolve.plain_values(run_dir.read_config(source)))
    except resolve.ConfigError as error:
        raise TransferError(
            f"seer.init_from={source} is not the directory of a run ({error}); name one that train made"
        ) from None
    if seeds := group.seeds_in(source):
        raise TransferError(f"seer.init_from={source} {group.name_seeds(seeds)}")
    here = resolve.flat(config.to_dict())
    differences = [
        f"{field}={there.get(field)} there and {here.get(field)} here"
        for field in _SHARED_FIELDS
        if there.get(field) != here.get(field)
    ]
    if differences:
        raise TransferError(f"the encoder of seer.init_from={source} does not fit: {'; '.join(differences)}")
    _load_params(source)


def load_encoder(source: pathlib.Path, params: base.Params) -> base.Params:
    """Returns the parts of an encoder, on the host.

    The runs may be split at different stages; the stages after this run's boundary are taken, too.

    Args:
      source: directory of the run, `seer.init_from`.
      params: parameters to replace, or their shapes.

    Raises:
      TransferError: a parameter has another shape there.
    """
    found = _load_params(source)
    loaded: base.Params = {}
    for frozen, trained in base.ENCODER_PARTS.items():
        stages = found.get(frozen, {}) | found.get(trained, {})
        for part in (frozen, trained):
            if part in params:
                loaded[part] = {name: stages.get(name) for name in params[part]}
    here, there = ({part: _shapes(tree[part]) for part in loaded} for tree in (params, loaded))
    if here != there:
        raise TransferError(f"the encoder of seer.init_from={source} does not fit: {there} there and {here} here")
    return loaded


def replace_encoder(state: base.TrainState, encoder: base.Params) -> base.TrainState:
    """Returns a state whose encoder, and that of its targets, is `encoder`."""
    params = state.params | jax.tree.map(jnp.asarray, encoder)
    targets = {part: params[part] if part in encoder else target for part, target in state.target_params.items()}
    return state.replace(params=params, target_params=jax.tree.map(jnp.copy, targets))


def _load_params(source: pathlib.Path) -> base.Params:
    try:
        return checkpoint.load_newest_state(source / checkpoint.DIRECTORY)[0]["train"]["params"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TransferError(
            f"seer.init_from={source} holds no parameters that can be read: {type(error).__name__}: {error}"
        ) from None


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): np.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}
