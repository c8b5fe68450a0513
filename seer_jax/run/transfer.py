"""An encoder trained in one run as the start of another's: other task, other actions, other heads."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from seer_jax.agents import base
from seer_jax.run import checkpoint

# What both runs must agree on for parameters to fit and pixels to mean the same.
_SHARED_FIELDS = (
    "agent.name",
    "agent.latent_size",
    "encoder.name",
    "env.suite",
    "env.image_size",
    "env.crop_size",
    "env.frame_stack",
    "env.render_quality",
)


class TransferError(ValueError):
    """The encoder of `seer.init_from` cannot be used; the message says why."""


def check(config: ConfigDict) -> None:
    """Checks that `seer.init_from` is a run with an encoder like this configuration's.

    Raises:
      TransferError: it is not.
    """
    run_dir = pathlib.Path(config.seer.init_from)
    try:
        source = ConfigDict(json.loads((run_dir / "config.json").read_text()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise TransferError(
            f"seer.init_from={run_dir} is not the directory of a run ({error}); name one that train made"
        ) from None
    differences = [
        f"{field}={_get(source, field)} there and {_get(config, field)} here"
        for field in _SHARED_FIELDS
        if _get(source, field) != _get(config, field)
    ]
    if differences:
        raise TransferError(f"the encoder of seer.init_from={run_dir} does not fit: {'; '.join(differences)}")
    _load_params(run_dir)


def load_encoder(config: ConfigDict, params: base.Params) -> base.Params:
    """Returns the parts of an encoder, on the host, from the run `seer.init_from`.

    The runs may be cut at different stages; those beyond this run's boundary are taken, too.

    Args:
      config: a resolved configuration.
      params: parameters to replace, or their shapes.

    Raises:
      TransferError: a parameter has another shape there.
    """
    run_dir = pathlib.Path(config.seer.init_from)
    source = _load_params(run_dir)
    loaded = {}
    for frozen, trained in base.ENCODER_PARTS.items():
        stages = source.get(frozen, {}) | source.get(trained, {})
        for part in (frozen, trained):
            if part in params:
                loaded[part] = {name: stages.get(name) for name in params[part]}
    here, there = ({part: _shapes(tree[part]) for part in loaded} for tree in (params, loaded))
    if here != there:
        raise TransferError(f"the encoder of seer.init_from={run_dir} does not fit: {there} there and {here} here")
    return loaded


def replace_encoder(state: base.TrainState, encoder: base.Params) -> base.TrainState:
    """Returns a state whose encoder, and that of its targets, is `encoder`."""
    params = state.params | jax.tree.map(jnp.asarray, encoder)
    targets = {part: params[part] if part in encoder else target for part, target in state.target_params.items()}
    return state.replace(params=params, target_params=jax.tree.map(jnp.copy, targets))


def _load_params(run_dir: pathlib.Path) -> base.Params:
    try:
        return checkpoint.load_newest_state(run_dir / checkpoint.DIRECTORY)[0]["train"]["params"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TransferError(
            f"seer.init_from={run_dir} holds no parameters that can be read: {type(error).__name__}: {error}"
        ) from None


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): np.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _get(config: ConfigDict, field: str):
    section, name = field.split(".")
    found = config.get(section)
    return found.get(name) if isinstance(found, ConfigDict) else None
