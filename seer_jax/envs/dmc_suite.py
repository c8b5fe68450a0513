"""DeepMind Control as a suite: the fields of its configuration, and the environments that they make."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from seer_jax.config import EnvConfig
from seer_jax.envs import dmc
from seer_jax.envs.suite import Suite, fill_from_protocol, unknown_task
from seer_jax.fields import UNSET, ConfigError, integer, text


@dataclasses.dataclass(frozen=True, kw_only=True)
class DmcConfig(EnvConfig):
    """Tasks of the DeepMind Control suite. `action_repeat` and `camera_id` are items of the protocol."""

    frame_stack: int = 3
    first_stack: str = "repeat"
    image_size: int = 100
    action_repeat: int = UNSET
    protocol: str = text("seer", "rules by which tasks are played", options=tuple(dmc.PROTOCOLS))
    backend: str = text("envpool", "package that simulates and renders", options=tuple(dmc.BACKENDS))
    render_quality: str = text(
        "full", "fast renders without shadows and multisampling: the images differ", options=dmc.QUALITIES
    )
    camera_id: int = integer(UNSET, "camera of the task's model", high=100)


def _fill_unset(env: Mapping[str, Any]) -> dict[str, Any]:
    if env["task"] not in dmc.tasks():
        raise unknown_task(env["task"], dmc.tasks(), "task of the DeepMind Control suite")
    return fill_from_protocol(env, dmc.protocol_items(dmc.PROTOCOLS[env["protocol"]], env["task"]))


def _check(env: DmcConfig) -> None:
    if not dmc.has_bounded_actions(env.task):
        raise ConfigError(
            f"env.task={env.task} has actuators without bounds, to which the agent's actions between -1 and 1 cannot be"
            " scaled; choose a task of another domain"
        )
    try:
        dmc.require_rendering(env.task, env.camera_id, env.backend)
    except dmc.RenderingError as error:
        raise ConfigError(str(error)) from None


def _make_env(env: DmcConfig, *, seeds: list[int], training: bool) -> dmc.DmcEnv:
    del training  # both kinds are alike
    return dmc.DmcEnv(
        env.task,
        seeds=seeds,
        image_size=env.image_size,
        action_repeat=env.action_repeat,
        camera_id=env.camera_id,
        backend=env.backend,
        render_quality=env.render_quality,
    )


SUITE = Suite(
    _make_env, channels=3, discrete_actions=False, config_class=DmcConfig, fill_unset=_fill_unset, check=_check
)
