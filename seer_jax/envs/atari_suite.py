"""Atari as a suite: the fields of its configuration, and the environments that they make."""

import dataclasses

from ml_collections import ConfigDict

from seer_jax.envs import atari
from seer_jax.envs.suite import Suite, fill, unknown_task
from seer_jax.fields import MANY, Choice, Flag, Number

_FIELDS = {
    "env.protocol": Choice("how games are played; what follows are its items", tuple(atari.PROTOCOLS)),
    "env.sticky_prob": Number("probability that the console repeats the action before", 0.0, 0.99),
    "env.noop_max": Number("an episode starts with 1 to this many no-op actions", 1, 1000),
    "env.max_episode_steps": Number("agent steps after which an episode is truncated", 1, MANY),
    "env.fire_reset": Flag("press FIRE at the start of an episode"),
    "env.full_actions": Flag("offer all 18 actions, not only those that the game reads"),
    "env.life_loss_terminal": Flag("in training, the loss of a life is terminal though the game goes on"),
    "env.clip_rewards": Flag("in training, rewards are clipped to [-1, 1]"),
}


def _resolve(config: ConfigDict) -> None:
    try:
        config.env.task = atari.game_name(config.env.task)
    except KeyError:
        raise unknown_task(config.env.task, atari.games(), "Atari game that EnvPool has") from None
    fill(config, dataclasses.asdict(atari.PROTOCOLS[config.env.protocol]))


def _make_env(config: ConfigDict, *, training: bool, pool: int) -> atari.AtariEnv:
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


SUITE = Suite(_make_env, channels=1, discrete_actions=True, fields=_FIELDS, resolve=_resolve)
