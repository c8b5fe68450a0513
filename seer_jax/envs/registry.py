"""From a configuration to environments."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from seer_jax.envs import atari, dmc, timestep


class Suite(NamedTuple):
    """A family of tasks.

    Attributes:
      make_env: `(config, training=, pool=) -> VectorEnv`.
      channels: C of a frame.
      protocols: names that `env.protocol` may have.
    """

    make_env: Callable[..., timestep.VectorEnv]
    channels: int
    protocols: tuple[str, ...]


def make_env(config: ConfigDict, *, training: bool, pool: int = 0) -> timestep.VectorEnv:
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


def _make_atari(config: ConfigDict, *, training: bool, pool: int) -> atari.AtariEnv:
    items = {field.name: config.env[field.name] for field in dataclasses.fields(atari.Protocol)}
    return atari.AtariEnv(
        config.env.task,
        num_envs=config.num_envs if training else config.eval_episodes,
        seed=config.seed,
        protocol=atari.Protocol(**items),
        image_size=config.env.image_size,
        action_repeat=config.env.action_repeat,
        training=training,
        pool=pool,
    )


def _make_dmc(config: ConfigDict, *, training: bool, pool: int) -> dmc.DmcEnv:
    return dmc.DmcEnv(
        config.env.task,
        num_envs=config.num_envs if training else config.eval_episodes,
        seed=config.seed,
        image_size=config.env.image_size,
        action_repeat=config.env.action_repeat,
        camera_id=config.env.camera_id,
        training=training,
        pool=pool,
        backend=config.env.backend,
        render_quality=config.env.render_quality,
    )


SUITES = {
    "atari": Suite(_make_atari, channels=1, protocols=tuple(atari.PROTOCOLS)),
    "dmc": Suite(_make_dmc, channels=3, protocols=tuple(dmc.PROTOCOLS)),
}
