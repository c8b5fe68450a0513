"""The suites by name, and the environments of a run."""

from collections.abc import Sequence

import numpy as np

from seer_jax.config import EnvConfig, RunConfig
from seer_jax.envs import atari_suite, dmc_suite
from seer_jax.envs.suite import Suite
from seer_jax.envs.timestep import VectorEnv

# By the value of `env.suite`. A configuration file may add its own: `docs/tutorial.md` does.
SUITES: dict[str, Suite] = {"atari": atari_suite.SUITE, "dmc": dmc_suite.SUITE}


def make_env(
    config: RunConfig, *, training: bool, pools: Sequence[int] = (0,), lanes: Sequence[int] | None = None
) -> VectorEnv:
    """Builds the environments of runs with the seeds `config.seed`, `config.seed + 1` and so on, in this order.

    Each run has E environments: `num_envs` to train in, or one for each evaluation episode. They are those of a run
    that is alone.

    Args:
      config: the configuration.
      training: whether lives, clipped rewards and `num_envs` apply.
      pools: for each of the S runs a number that differs each time that it builds such environments, so that they get
        new seeds: how often it has built some to train in, or its agent steps at an evaluation.
      lanes: numbers of the environments to build, if not all are needed; each is the same with and without the others.

    Returns:
      S * E environments; environment e of run s is number `s * E + e`.
    """
    num_envs = config.num_envs if training else config.eval_episodes
    seeds = [
        seed
        for run, pool in enumerate(pools)
        for seed in environment_seeds(config.seed + run, num_envs, training=training, pool=pool)
    ]
    seeds = seeds if lanes is None else [seeds[lane] for lane in lanes]
    return SUITES[config.env.suite].make_env(config.env, seeds=seeds, training=training)


def environment_seeds(seed: int, num_envs: int, *, training: bool, pool: int) -> list[int]:
    """Returns unrelated 31-bit seeds. Training and evaluation have separate streams.

    EnvPool gives environment i the seed `seed + i` for an integer seed, so that nearby runs would share
    environments.

    Args:
      seed: seed of the run.
      num_envs: E.
      training: whether the environments are trained in.
      pool: as an item of `pools` in `make_env`.
    """
    entropy = np.random.SeedSequence(seed, spawn_key=(int(training), pool))
    return (entropy.generate_state(num_envs) >> 1).tolist()


def frame_shape(env: EnvConfig) -> tuple[int, int, int]:
    """Returns `(H, W, C)` of a frame."""
    return env.image_size, env.image_size, SUITES[env.suite].channels


def view_shape(env: EnvConfig) -> tuple[int, int, int]:
    """Returns `(h, w, k * C)` of the encoder's input: a cropped stack of k frames."""
    return env.crop_size, env.crop_size, SUITES[env.suite].channels * env.frame_stack
