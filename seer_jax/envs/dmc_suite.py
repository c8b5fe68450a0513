"""DeepMind Control as a suite: the fields of its configuration, and the environments that they make."""

from ml_collections import ConfigDict

from seer_jax.envs import dmc
from seer_jax.envs.suite import Suite, fill, unknown_task
from seer_jax.fields import Choice, ConfigError, Number

_FIELDS = {
    "env.protocol": Choice("how tasks are played; action_repeat and camera_id are its items", tuple(dmc.PROTOCOLS)),
    "env.backend": Choice("who simulates and draws", tuple(dmc.BACKENDS)),
    "env.render_quality": Choice("fast is without shadows and multisampling: other pictures", dmc.QUALITIES),
    "env.camera_id": Number("of the task's model", 0, 100),
}


def _resolve(config: ConfigDict) -> None:
    if config.env.task not in dmc.tasks():
        raise unknown_task(config.env.task, dmc.tasks(), "task of the DeepMind Control suite")
    fill(config, dmc.protocol_items(dmc.PROTOCOLS[config.env.protocol], config.env.task))


def _check(config: ConfigDict) -> None:
    try:
        dmc.require_rendering(config.env.task, config.env.camera_id, config.env.backend)
    except dmc.RenderingError as error:
        raise ConfigError(str(error)) from None


def _make_env(config: ConfigDict, *, training: bool, pool: int) -> dmc.DmcEnv:
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


SUITE = Suite(_make_env, channels=3, discrete_actions=False, fields=_FIELDS, resolve=_resolve, check=_check)
