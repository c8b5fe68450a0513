"""What is compared: the paper's settings."""

from ml_collections import ConfigDict

from configs import curl_dmc, rainbow_atari
from seer_jax.run import resolve as config_lib

ROWS = 2000  # of a ring


def cases(*, quick: bool) -> dict[str, ConfigDict]:
    """Returns the paper's settings that are compared, by name."""
    made = {"rainbow": rainbow_atari.get_config(), "curl": curl_dmc.get_config()}
    if not quick:
        made |= {"rainbow_impala": rainbow_atari.get_config(), "curl_impala": curl_dmc.get_config("impala")}
        made["rainbow_impala"].encoder.name = "impala"
        made["rainbow_impala"].replay.allow_more_memory = True
    for config in made.values():
        config.total_steps, config.replay.capacity, config.seer.freeze_step = 2 * ROWS, ROWS, ROWS
    return {name: config_lib.resolve(config) for name, config in made.items()}
