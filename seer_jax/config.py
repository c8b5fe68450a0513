"""Makes a configuration complete and refuses what cannot run, before anything starts or is written."""

import dataclasses
import difflib

import jax.numpy as jnp
from ml_collections import ConfigDict

from seer_jax import handover, replay
from seer_jax.agents import registry as agent_registry
from seer_jax.envs import atari
from seer_jax.envs import registry as env_registry
from seer_jax.networks import encoders

LATENT_DTYPES = ("float32", "bfloat16", "float16")


class ConfigError(ValueError):
    """A value, or values together, that cannot run. The message says which, and what would."""


# Field: least and greatest value allowed.
_RANGES = {
    "seed": (0, 2**31 - 1),
    "total_steps": (1, 2**31 - 1),
    "learn_start": (1, 2**31 - 1),
    "num_envs": (1, 4096),
    "update_every": (1, 10_000),
    "log_every": (1, 2**31 - 1),
    "eval_every": (1, 2**31 - 1),
    "eval_episodes": (1, 1000),
    "checkpoint_every": (1, 2**31 - 1),
    "env.frame_stack": (1, 16),
    "env.action_repeat": (1, 60),
    "env.image_size": (8, 256),
    "env.sticky_prob": (0.0, 0.99),
    "env.noop_max": (1, 1000),
    "env.max_episode_steps": (1, 2**31 - 1),
    "agent.batch_size": (1, 65_536),
    "agent.n_step": (1, 1000),
    "agent.discount": (0.0, 1.0),
    "agent.learning_rate": (1e-12, 1.0),
    "agent.adam_eps": (1e-12, 1.0),
    "agent.max_grad_norm": (1e-6, 1e9),
    "agent.target_update_every": (1, 2**31 - 1),
    "agent.num_atoms": (2, 1001),
    "agent.v_max": (1e-6, 1e9),
    "agent.hidden": (1, 65_536),
    "agent.noise_std": (0.0, 10.0),
    "agent.eval_epsilon": (0.0, 1.0),
    "replay.capacity": (1, 2**31 - 1),
    "replay.priority_exponent": (0.0, 1.0),
    "replay.importance_start": (0.0, 1.0),
    "seer.freeze_step": (1, 2**31 - 1),
    "seer.num_copies": (1, 1),
}

_BOOLEANS = (
    "env.fire_reset",
    "env.full_actions",
    "env.life_loss_terminal",
    "env.clip_rewards",
    "replay.grow_after_freeze",
    "replay.allow_more_memory",
    "replay.prioritized",
    "seer.enabled",
)

_CHOICES = {
    "env.suite": tuple(env_registry.SUITES),
    "env.protocol": tuple(atari.PROTOCOLS),
    "agent.name": tuple(agent_registry.AGENTS),
    "encoder.name": tuple(encoders.STAGES),
    "replay.latent_dtype": LATENT_DTYPES,
}


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a locked copy with the protocol's items and the game's plain name filled in.

    Raises:
      ConfigError: the run cannot start, or could not end well.
    """
    config = config.copy_and_resolve_references().unlock()
    _check_choices(config)
    try:
        config.env.task = atari.game_name(config.env.task)
    except KeyError:
        raise ConfigError(_unknown_game(config.env.task)) from None
    for item, value in dataclasses.asdict(atari.PROTOCOLS[config.env.protocol]).items():
        if config.env[item] is None:
            config.env[item] = value
    _check_ranges(config)
    _check_schedule(config)
    _check_replay(config)
    return config.lock()


def _check_choices(config: ConfigDict) -> None:
    for field, choices in _CHOICES.items():
        value = _get(config, field)
        if value not in choices:
            raise ConfigError(f"{field}={value!r} is unknown; it is one of {', '.join(choices)}")


def _check_ranges(config: ConfigDict) -> None:
    for field, (low, high) in _RANGES.items():
        value = _get(config, field)
        is_number = isinstance(value, type(low)) or (isinstance(low, float) and isinstance(value, int))
        if isinstance(value, bool) or not is_number:
            raise ConfigError(f"{field}={value!r} is not {'an integer' if isinstance(low, int) else 'a number'}")
        if not low <= value <= high:
            raise ConfigError(f"{field}={value} is out of range; it lies between {low} and {high}")
    for field in _BOOLEANS:
        if not isinstance(_get(config, field), bool):
            raise ConfigError(f"{field}={_get(config, field)!r} is neither True nor False")


def _check_schedule(config: ConfigDict) -> None:
    larger, smaller = max(config.num_envs, config.update_every), min(config.num_envs, config.update_every)
    if larger % smaller:
        raise ConfigError(
            f"num_envs={config.num_envs} and update_every={config.update_every}: one must be a multiple of the other"
        )
    if config.agent.target_update_every % config.update_every:
        raise ConfigError(
            f"agent.target_update_every={config.agent.target_update_every} agent steps is no whole number of"
            f" updates at update_every={config.update_every}; make it a multiple"
        )
    # Steps between two calls of `learn`; each phase needs a few to have anything to say of itself.
    period = larger
    if config.learn_start + 2 * period > config.total_steps:
        raise ConfigError(
            f"learn_start={config.learn_start} is not well below total_steps={config.total_steps}: nothing would be"
            f" learned; lower it to at most {config.total_steps - 2 * period}"
        )
    first_window = (config.agent.n_step + 1) * config.num_envs
    if config.learn_start < first_window:
        raise ConfigError(
            f"learn_start={config.learn_start} comes before the first {config.agent.n_step}-step window of"
            f" {config.num_envs} environments is complete; raise it to at least {first_window}"
        )
    if not config.seer.enabled:
        return
    if config.seer.freeze_step + 2 * period > config.total_steps:
        raise ConfigError(
            f"seer.freeze_step={config.seer.freeze_step} is past total_steps={config.total_steps}: the encoder would"
            " never freeze; lower it or set seer.enabled=False"
        )
    if config.seer.freeze_step < config.learn_start + 2 * period:
        raise ConfigError(
            f"seer.freeze_step={config.seer.freeze_step} is not past learn_start={config.learn_start}: an untrained"
            f" encoder would freeze; raise it to at least {config.learn_start + 2 * period}"
        )


def _check_replay(config: ConfigDict) -> None:
    latent_size = encoders.latent_size(config.encoder.name, config.env.image_size)
    if latent_size == 0:
        raise ConfigError(
            f"env.image_size={config.env.image_size} is too small for encoder.name={config.encoder.name}; raise it"
        )
    least = replay.min_steps(config.agent.n_step, config.env.frame_stack) * config.num_envs
    if config.replay.capacity < least:
        raise ConfigError(
            f"replay.capacity={config.replay.capacity} cannot hold one {config.agent.n_step}-step window and frame"
            f" stack of {config.num_envs} environments ({least} rows); raise it or lower agent.n_step or num_envs"
        )
    if not config.seer.enabled:
        return
    itemsize = jnp.dtype(config.replay.latent_dtype).itemsize
    same_bytes = handover.capacity_in_same_bytes(config)
    if same_bytes < config.replay.capacity and not config.replay.allow_more_memory:
        frame, latent = handover.bytes_per_row(config)
        narrow = [dtype for dtype in LATENT_DTYPES if latent * jnp.dtype(dtype).itemsize <= frame * itemsize]
        cures = [f"set replay.latent_dtype={narrow[0]}"] if narrow else []
        raise ConfigError(
            f"a {config.replay.latent_dtype} latent of {config.encoder.name} takes {latent:,} bytes, a frame {frame:,}:"
            f" in the same memory replay.capacity={config.replay.capacity:,} would shrink to {same_bytes:,} at the"
            f" freeze; {', '.join([*cures, 'use a smaller encoder'])}, or allow the replay to grow to"
            f" {config.replay.capacity * latent / 1e9:.2f} GB with replay.allow_more_memory=True"
        )


def _unknown_game(task: str) -> str:
    names = list(atari.games())
    near = difflib.get_close_matches(task.lower(), names, n=3) or difflib.get_close_matches(
        task.lower().replace("_", ""), [name.replace("_", "") for name in names], n=3
    )
    hint = f"did you mean {' or '.join(near)}?" if near else f"the games are {', '.join(names)}"
    return f"env.task={task!r} is no Atari game that EnvPool has; {hint}"


def _get(config: ConfigDict, field: str):
    for part in field.split("."):
        if part not in config:
            raise ConfigError(f"{field} is missing; start from configs/rainbow_atari.py")
        config = config[part]
    return config
