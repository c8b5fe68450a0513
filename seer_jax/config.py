"""Makes a configuration complete and refuses what cannot run, before anything starts or is written."""

import dataclasses
import difflib

import jax.numpy as jnp
from ml_collections import ConfigDict

from seer_jax import handover, replay
from seer_jax.agents.registry import AGENTS
from seer_jax.envs import atari, dmc
from seer_jax.envs.registry import SUITES
from seer_jax.networks import encoders, haiku

LATENT_DTYPES = ("float32", "bfloat16", "float16")


class ConfigError(ValueError):
    """A value, or values together, that cannot run. The message says which, and what would."""


_MANY = 2**31 - 1

# Field: least and greatest value allowed.
_RANGES = {
    "seed": (0, _MANY),
    "total_steps": (1, _MANY),
    "learn_start": (1, _MANY),
    "num_envs": (1, 4096),
    "update_every": (1, 10_000),
    "log_every": (1, _MANY),
    "eval_every": (1, _MANY),
    "eval_episodes": (1, 1000),
    "checkpoint_every": (0, _MANY),
    "params_every": (0, _MANY),
    "env.frame_stack": (1, 16),
    "env.action_repeat": (1, 60),
    "env.image_size": (8, 256),
    "env.crop_size": (8, 256),
    "agent.batch_size": (1, 65_536),
    "agent.n_step": (1, 1000),
    "agent.discount": (0.0, 1.0),
    "agent.learning_rate": (1e-12, 1.0),
    "agent.target_update_every": (1, _MANY),
    "agent.hidden": (1, 65_536),
    "replay.capacity": (1, _MANY),
    "replay.priority_exponent": (0.0, 1.0),
    "replay.importance_start": (0.0, 1.0),
    "seer.freeze_step": (0, _MANY),
    "seer.num_copies": (1, 256),
}
_SUITE_RANGES = {
    "atari": {
        "env.sticky_prob": (0.0, 0.99),
        "env.noop_max": (1, 1000),
        "env.max_episode_steps": (1, _MANY),
    },
    "dmc": {"env.camera_id": (0, 100)},
}
_AGENT_RANGES = {
    "rainbow": {
        "agent.adam_eps": (1e-12, 1.0),
        "agent.max_grad_norm": (1e-6, 1e9),
        "agent.num_atoms": (2, 1001),
        "agent.v_max": (1e-6, 1e9),
        "agent.noise_std": (0.0, 10.0),
        "agent.eval_epsilon": (0.0, 1.0),
        "seer.num_copies": (1, 1),
    },
    "curl_sac": {
        "agent.latent_size": (1, 65_536),
        "agent.target_update_every": (1, 8),
        "agent.actor_update_every": (1, 8),
        "agent.critic_tau": (0.0, 1.0),
        "agent.encoder_tau": (0.0, 1.0),
        "agent.initial_temperature": (1e-6, 1e6),
        "agent.temperature_learning_rate": (0.0, 1.0),
        "agent.temperature_adam_b1": (0.0, 0.9999),
        "agent.log_std_min": (-30.0, 10.0),
        "agent.log_std_max": (-30.0, 10.0),
        "agent.random_steps": (0, _MANY),
    },
}

_BOOLEANS = (
    "replay.grow_after_freeze",
    "replay.allow_more_memory",
    "replay.prioritized",
    "seer.enabled",
    "seer.sync_target_heads",
)
_SUITE_BOOLEANS = {
    "atari": ("env.fire_reset", "env.full_actions", "env.life_loss_terminal", "env.clip_rewards"),
    "dmc": (),
}

# Names; the second kind may be left open.
_NAMES = ("env.task", "encoder.name")
_OPTIONAL_NAMES = ("seer.freeze_through", "seer.init_from")

_CHOICES = {
    "on_nan": ("stop", "ignore"),
    "env.suite": tuple(SUITES),
    "agent.name": tuple(AGENTS),
    "encoder.compute_dtype": ("float32", "bfloat16"),
    "replay.latent_dtype": LATENT_DTYPES,
}
_SUITE_CHOICES = {
    "atari": {"env.protocol": tuple(atari.PROTOCOLS)},
    "dmc": {
        "env.protocol": tuple(dmc.PROTOCOLS),
        "env.backend": tuple(dmc.BACKENDS),
        "env.render_quality": dmc.QUALITIES,
    },
}


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a locked copy with everything filled in that follows from the rest.

    That is the plain name of the game, the items of the protocol, and the stage that the freeze goes through.

    Raises:
      ConfigError: the run cannot start, or could not end well.
    """
    config = config.copy_and_resolve_references().unlock()
    _check_choices(config, _CHOICES)
    _check_names(config)
    suite, algorithm = config.env.suite, config.agent.name
    _check_choices(config, _SUITE_CHOICES[suite])
    _RESOLVE_SUITE[suite](config)
    _check_ranges(config, _RANGES | _SUITE_RANGES[suite] | _AGENT_RANGES[algorithm])
    _check_booleans(config, _BOOLEANS + _SUITE_BOOLEANS[suite])
    if suite == "dmc":
        try:
            dmc.require_rendering(config.env.task, config.env.camera_id, config.env.backend)
        except dmc.RenderingError as error:
            raise ConfigError(str(error)) from None
    if algorithm == "curl_sac" and config.agent.log_std_min > config.agent.log_std_max:
        raise ConfigError(
            f"agent.log_std_min={config.agent.log_std_min} is above agent.log_std_max={config.agent.log_std_max}"
        )
    _resolve_encoder(config)
    _check_schedule(config)
    _check_replay(config)
    return config.lock()


def _resolve_atari(config: ConfigDict) -> None:
    if config.agent.name != "rainbow":
        raise ConfigError(f"agent.name={config.agent.name} has continuous actions and Atari has none; use rainbow")
    try:
        config.env.task = atari.game_name(config.env.task)
    except KeyError:
        raise ConfigError(_unknown(config.env.task, atari.games(), "Atari game that EnvPool has")) from None
    _fill(config, dataclasses.asdict(atari.PROTOCOLS[config.env.protocol]))


def _resolve_dmc(config: ConfigDict) -> None:
    if config.agent.name != "curl_sac":
        raise ConfigError(f"agent.name={config.agent.name} needs discrete actions and dmc has none; use curl_sac")
    if config.env.task not in dmc.tasks():
        raise ConfigError(_unknown(config.env.task, dmc.tasks(), "task of the DeepMind Control suite"))
    _fill(config, dmc.protocol_items(dmc.PROTOCOLS[config.env.protocol], config.env.task))


_RESOLVE_SUITE = {"atari": _resolve_atari, "dmc": _resolve_dmc}


def _fill(config: ConfigDict, items: dict) -> None:
    """Gives the protocol's value to every item of `config.env` that the user left open."""
    for item, value in items.items():
        if _get(config, f"env.{item}") is None:
            config.env[item] = value


def _resolve_encoder(config: ConfigDict) -> None:
    """Checks that the encoder reads these images, and names the stage at which it is cut."""
    name, env = _get(config, "encoder.name"), config.env
    if not (isinstance(name, str) and (name in encoders.ENCODERS or name.startswith(haiku.PREFIX))):
        known = ", ".join(encoders.ENCODERS)
        raise ConfigError(f"encoder.name={name!r} is unknown; it is one of {known}, or {haiku.PREFIX}module:function")
    if env.crop_size > env.image_size:
        raise ConfigError(f"env.crop_size={env.crop_size} does not fit into env.image_size={env.image_size}; lower it")
    algorithm = AGENTS[config.agent.name]
    try:
        stages = algorithm.stage_names(config)
        if config.seer.freeze_through is None:
            config.seer.freeze_through = stages[-1]
        if config.seer.freeze_through not in stages:
            raise ConfigError(
                f"seer.freeze_through={config.seer.freeze_through!r} is no stage of {name}: {', '.join(stages)} are"
            )
        _, latent_size = algorithm.latent_shape(config)
        whole = config.copy_and_resolve_references()
        whole.seer.freeze_through = stages[-1]
        _, final_size = algorithm.latent_shape(whole)
    except haiku.HaikuError as error:
        raise ConfigError(str(error)) from None
    except ConfigError:
        raise
    except Exception as error:  # the user's own encoder may raise anything
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise ConfigError(f"encoder.name={name} cannot read {env.crop_size}-pixel images: {what}") from None
    if latent_size == 0 or final_size == 0:
        raise ConfigError(f"env.crop_size={env.crop_size} is too small for encoder.name={name}; raise it")


def _check_choices(config: ConfigDict, choices_by_field: dict[str, tuple]) -> None:
    for field, choices in choices_by_field.items():
        value = _get(config, field)
        if value not in choices:
            raise ConfigError(f"{field}={value!r} is unknown; it is one of {', '.join(choices)}")


def _check_names(config: ConfigDict) -> None:
    for field in _NAMES + _OPTIONAL_NAMES:
        value = _get(config, field)
        if not isinstance(value, str) and not (value is None and field in _OPTIONAL_NAMES):
            raise ConfigError(f"{field}={value!r} is not a name")


def _check_ranges(config: ConfigDict, ranges: dict[str, tuple]) -> None:
    for field, (low, high) in ranges.items():
        value = _get(config, field)
        is_number = isinstance(value, type(low)) or (isinstance(low, float) and isinstance(value, int))
        if isinstance(value, bool) or not is_number:
            raise ConfigError(f"{field}={value!r} is not {'an integer' if isinstance(low, int) else 'a number'}")
        if not low <= value <= high:
            raise ConfigError(f"{field}={value} is out of range; it lies between {low} and {high}")


def _check_booleans(config: ConfigDict, fields: tuple[str, ...]) -> None:
    for field in fields:
        if not isinstance(_get(config, field), bool):
            raise ConfigError(f"{field}={_get(config, field)!r} is neither True nor False")


def _check_schedule(config: ConfigDict) -> None:
    larger, smaller = max(config.num_envs, config.update_every), min(config.num_envs, config.update_every)
    if larger % smaller:
        raise ConfigError(
            f"num_envs={config.num_envs} and update_every={config.update_every}: one must be a multiple of the other"
        )
    cycle = AGENTS[config.agent.name].updates_per_cycle(config)
    if cycle > 8:
        raise ConfigError(
            f"agent.actor_update_every={config.agent.actor_update_every} and agent.target_update_every="
            f"{config.agent.target_update_every} repeat only after {cycle} updates, which are compiled as one program;"
            " choose them to repeat after at most 8"
        )
    at_once = max(1, config.num_envs // config.update_every)
    if at_once > cycle and at_once % cycle:
        raise ConfigError(
            f"num_envs={config.num_envs} owe {at_once} updates at once, which is no multiple of the {cycle} after which"
            f" {config.agent.name} repeats itself; choose num_envs accordingly"
        )
    if config.agent.name == "rainbow" and config.agent.target_update_every % config.update_every:
        raise ConfigError(
            f"agent.target_update_every={config.agent.target_update_every} agent steps is no whole number of"
            f" updates at update_every={config.update_every}; make it a multiple"
        )
    # Steps between two calls of `learn`; each phase needs a few to have anything to say of itself.
    period = max(config.num_envs, config.update_every * cycle)
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
    if config.seer.freeze_step == 0 and config.seer.init_from is not None:
        return
    if config.seer.freeze_step < config.learn_start + 2 * period:
        raise ConfigError(
            f"seer.freeze_step={config.seer.freeze_step} is not past learn_start={config.learn_start}: an untrained"
            f" encoder would freeze; raise it to at least {config.learn_start + 2 * period}, or set it to 0 with"
            " seer.init_from=RUN_DIR"
        )


def _check_replay(config: ConfigDict) -> None:
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
        last = AGENTS[config.agent.name].stage_names(config)[-1]
        if config.seer.freeze_through != last:
            cures.append(f"freeze up to a later stage than seer.freeze_through={config.seer.freeze_through}")
        raise ConfigError(
            f"a {config.replay.latent_dtype} latent of {config.encoder.name} takes {latent:,} bytes, a frame {frame:,}:"
            f" in the same memory replay.capacity={config.replay.capacity:,} would shrink to {same_bytes:,} at the"
            f" freeze; {', '.join([*cures, 'use a smaller encoder'])}, or allow the replay to grow to"
            f" {config.replay.capacity * latent / 1e9:.2f} GB with replay.allow_more_memory=True"
        )


def _unknown(task: str, known: dict[str, str], what: str) -> str:
    names = list(known)
    near = difflib.get_close_matches(task.lower(), names, n=3) or difflib.get_close_matches(
        task.lower().replace("_", ""), [name.replace("_", "") for name in names], n=3
    )
    hint = f"did you mean {' or '.join(near)}?" if near else f"they are {', '.join(names)}"
    return f"env.task={task!r} is no {what}; {hint}"


def _get(config: ConfigDict, field: str):
    for part in field.split("."):
        if not isinstance(config, ConfigDict) or part not in config:
            raise ConfigError(f"{field} is missing; start from a file in configs/")
        config = config[part]
    return config
