"""The suites by name, and the environments of a run."""

from seer_jax.config import EnvConfig, RunConfig
from seer_jax.envs import atari_suite, dmc_suite
from seer_jax.envs.suite import Suite
from seer_jax.envs.timestep import VectorEnv

# By the value of `env.suite`. A configuration file may add its own: `docs/tutorial.md` does.
SUITES: dict[str, Suite] = {"atari": atari_suite.SUITE, "dmc": dmc_suite.SUITE}


def make_env(config: RunConfig, *, training: bool, pool: int = 0) -> VectorEnv:
    """Builds the environments of a run: `num_envs` to train in, or one for each evaluation episode.

    Args:
      config: the configuration.
      training: whether lives, clipped rewards and `num_envs` apply.
      pool: number of times that the run has built such environments before; each time they get seeds of their own.
    """
    num_envs = config.num_envs if training else config.eval_episodes
    make = SUITES[config.env.suite].make_env
    return make(config.env, num_envs=num_envs, seed=config.seed, training=training, pool=pool)


def frame_shape(env: EnvConfig) -> tuple[int, int, int]:
    """Returns `(H, W, C)` of a frame."""
    return env.image_size, env.image_size, SUITES[env.suite].channels


def view_shape(env: EnvConfig) -> tuple[int, int, int]:
    """Returns `(h, w, k * C)` of the encoder's input: a cropped stack of k frames."""
    return env.crop_size, env.crop_size, SUITES[env.suite].channels * env.frame_stack
