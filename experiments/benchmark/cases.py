"""The configurations that the benchmark compares: those of the paper, with small rings."""

from configs import curl_dmc, rainbow_atari
from seer_jax.config import RunConfig
from seer_jax.run import resolve

ROWS = 2000  # capacity of a ring


def cases(*, quick: bool) -> dict[str, RunConfig]:
    """Returns resolved configurations by name; `quick` leaves out those with the IMPALA encoder."""
    configs = {"rainbow": rainbow_atari.get_config(), "curl": curl_dmc.get_config()}
    if not quick:
        configs |= {"rainbow_impala": rainbow_atari.get_config(), "curl_impala": curl_dmc.get_config("impala")}
        configs["rainbow_impala"].encoder.name = "impala"
        configs["rainbow_impala"].replay.allow_more_memory = True
    for config in configs.values():
        config.total_steps, config.replay.capacity, config.seer.freeze_step = 2 * ROWS, ROWS, ROWS
    return {name: resolve.resolve(config) for name, config in configs.items()}
