"""The configurations that the benchmark compares: those of the paper, with small rings."""

from collections.abc import Mapping
from typing import Any

from configs import curl_dmc, rainbow_atari
from seer_jax.config import RunConfig
from seer_jax.run import resolve

_ROWS = 2000  # capacity of a ring
_SMALL = {"total_steps": 2 * _ROWS, "checkpoint_every": 0, "replay.capacity": _ROWS, "seer.freeze_step": _ROWS}
_RAINBOW_IMPALA = {"encoder.name": "impala", "replay.allow_more_memory": True}


def cases(*, quick: bool, num_seeds: int = 1, encoder: Mapping[str, Any] | None = None) -> dict[str, RunConfig]:
    """Returns resolved configurations by name.

    Args:
      quick: leave out those with the IMPALA encoder.
      num_seeds: of each.
      encoder: values of the section `encoder` that all have; None leaves each its own.
    """
    configs = {"rainbow": rainbow_atari.get_config(), "curl": curl_dmc.get_config()}
    if not quick:
        configs |= {"rainbow_impala": rainbow_atari.get_config(), "curl_impala": curl_dmc.get_config("impala")}
        configs["rainbow_impala"].update_from_flattened_dict(_RAINBOW_IMPALA)
    for config in configs.values():
        config.update_from_flattened_dict(_SMALL | {"num_seeds": num_seeds})
        if encoder is not None:
            config.update({"encoder": encoder, "replay": {"allow_more_memory": True}})
    return {name: resolve.resolve(config) for name, config in configs.items()}
