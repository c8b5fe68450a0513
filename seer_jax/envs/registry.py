"""From a configuration to environments."""

from ml_collections import ConfigDict

from seer_jax.envs import atari_suite, dmc_suite
from seer_jax.envs.timestep import VectorEnv

# By the name that `env.suite` gives. A configuration file may add its own: `docs/tutorial.md` does.
SUITES = {"atari": atari_suite.SUITE, "dmc": dmc_suite.SUITE}


def make_env(config: ConfigDict, *, training: bool, pool: int = 0) -> VectorEnv:
    """Builds the environments of a run: `num_envs` to train in, or one for each evaluation episode.

    Args:
      config: a resolved configuration.
      training: whether lives, clipped rewards and `num_envs` apply.
      pool: how many times the run has made such environments before; each time they get seeds of their own.
    """
    return SUITES[config.env.suite].make_env(config, training=training, pool=pool)


def frame_shape(config: ConfigDict) -> tuple[int, int, int]:
    """Returns `(H, W, C)` of a frame."""
    return config.env.image_size, config.env.image_size, SUITES[config.env.suite].channels
