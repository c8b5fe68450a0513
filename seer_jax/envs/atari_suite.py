"""Atari as a suite: the fields of its configuration, and the environments that they make."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from seer_jax.config import EnvConfig
from seer_jax.envs import atari
from seer_jax.envs.suite import Suite, fill_from_protocol, unknown_task
from seer_jax.fields import UNSET, flag, integer, real, text


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtariConfig(EnvConfig):
    """Atari games. The fields after `protocol` are its items."""

    action_repeat: int = 4
    protocol: str = text("seer", "rules by which games are played", options=tuple(atari.PROTOCOLS))
    fire_reset: bool = flag(UNSET, "press FIRE at the start of an episode")
    resize: str = text(
        UNSET, "interpolation by which images are scaled", options=atari.RESIZES, optional=True, earlier="area"
    )
    full_actions: bool = flag(UNSET, "offer all 18 actions instead of those that the game reads")
    sticky_prob: float = real(UNSET, "probability that the console repeats the previous action", low=0.0, high=0.99)
    noop_max: int = integer(UNSET, "an episode starts with 1 to this many no-op actions", low=1, high=1000)
    life_loss_terminal: bool = flag(UNSET, "in training, the loss of a life is terminal although the game continues")
    clip_rewards: bool = flag(UNSET, "in training, rewards are clipped to [-1, 1]")
    max_episode_steps: int = integer(UNSET, "agent steps after which an episode is truncated", low=1)


def _fill_unset(env: Mapping[str, Any]) -> dict[str, Any]:
    try:
        game = atari.game_name(env["task"])
    except KeyError:
        raise unknown_task(env["task"], atari.games(), "Atari game of EnvPool") from None
    protocol = dataclasses.asdict(atari.PROTOCOLS[env["protocol"]])
    return fill_from_protocol(env, protocol) | {"task": game}


def _make_env(env: AtariConfig, *, seeds: list[int], training: bool) -> atari.AtariEnv:
    items = {field.name: getattr(env, field.name) for field in dataclasses.fields(atari.Protocol)}
    return atari.AtariEnv(
        env.task,
        seeds=seeds,
        protocol=atari.Protocol(**items),
        image_size=env.image_size,
        action_repeat=env.action_repeat,
        training=training,
    )


SUITE = Suite(_make_env, channels=1, discrete_actions=True, config_class=AtariConfig, fill_unset=_fill_unset)
