"""From a configuration to environments."""

import dataclasses

from ml_collections import ConfigDict

from seer_jax.envs import atari, timestep


def make_env(config: ConfigDict, *, training: bool) -> timestep.VectorEnv:
    """Builds the environments of a run: `num_envs` to train in, or one for each evaluation episode.

    Args:
      config: a resolved configuration.
      training: whether lives, clipped rewards and `num_envs` apply.
    """
    return SUITES[config.env.suite](config, training=training)


def _make_atari(config: ConfigDict, *, training: bool) -> atari.AtariEnv:
    items = {field.name: config.env[field.name] for field in dataclasses.fields(atari.Protocol)}
    return atari.AtariEnv(
        config.env.task,
        num_envs=config.num_envs if training else config.eval_episodes,
        seed=config.seed,
        protocol=atari.Protocol(**items),
        image_size=config.env.image_size,
        action_repeat=config.env.action_repeat,
        training=training,
    )


SUITES = {"atari": _make_atari}
