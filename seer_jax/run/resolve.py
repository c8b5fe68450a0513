"""From the configuration that a file and the command line give to a typed one, before anything starts or is written."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict, config_dict

from seer_jax import fields, replay
from seer_jax.agents.base import Algorithm
from seer_jax.agents.registry import AGENTS
from seer_jax.config import LATENT_DTYPES, EncoderConfig, ReplayConfig, RunConfig, SeerConfig
from seer_jax.envs.registry import SUITES
from seer_jax.envs.suite import Suite
from seer_jax.fields import ConfigError
from seer_jax.networks import encoders, haiku
from seer_jax.seer import capacity

_MAX_CYCLE = 8  # updates that are compiled as one program
Sections = Mapping[str, type]  # the dataclass of each section; that of the run itself has the name ""


def sections_of(suite: Suite, algorithm: Algorithm) -> Sections:
    """Returns the dataclass of each section of a configuration with this suite and this algorithm."""
    return {
        "": RunConfig,
        "env": suite.config_class,
        "agent": algorithm.config_class,
        "encoder": EncoderConfig,
        "replay": ReplayConfig,
        "seer": SeerConfig,
    }


def default_config(*, suite: str, agent: str) -> ConfigDict:
    """Returns a configuration with every field at its default, for a configuration file to fill in.

    Args:
      suite: value of `env.suite`.
      agent: value of `agent.name`.
    """
    tree: dict[str, Any] = {}
    for section, section_class in sections_of(SUITES[suite], AGENTS[agent]).items():
        declared = fields.fields_of(section_class)
        values = {
            name: config_dict.placeholder(declared[name].kind) if default is None else default
            for name, default in fields.defaults_of(section_class).items()
        }
        tree |= {section: values} if section else values
    tree["env"]["suite"], tree["agent"]["name"] = suite, agent
    return ConfigDict(tree)


def resolve(config: ConfigDict) -> RunConfig:
    """Returns the configuration of a run, checked, with every unset field filled in.

    Missing fields get their defaults. Fields of earlier versions get their names of today.

    Raises:
      ConfigError: the run cannot start, or could not end well.
    """
    values = plain_values(config)
    suite = SUITES[_registered(values, "env.suite", SUITES)]
    algorithm = AGENTS[_registered(values, "agent.name", AGENTS)]
    if suite.discrete_actions != algorithm.discrete_actions:
        kinds = {True: "discrete", False: "continuous"}
        able = [name for name, agent in AGENTS.items() if suite.discrete_actions == agent.discrete_actions]
        raise ConfigError(
            f"agent.name={values['agent']['name']} needs {kinds[algorithm.discrete_actions]} actions, and those of"
            f" env.suite={values['env']['suite']} are {kinds[suite.discrete_actions]}; use {' or '.join(able)}"
        )
    sections = sections_of(suite, algorithm)
    values = _complete(values, sections)
    _check(values, sections, fields.Text, unset_allowed=("seer.freeze_through",))
    values["env"] = suite.fill_unset(values["env"])
    _check(values, sections, fields.Number, fields.Flag)
    resolved = RunConfig(
        **{name: value for name, value in values.items() if name not in sections},
        **{name: section(**values[name]) for name, section in sections.items() if name},
    )
    suite.check(resolved.env)
    algorithm.check(resolved)
    resolved = _resolve_encoder(resolved, algorithm)
    _check_schedule(resolved, algorithm)
    _check_replay(resolved, algorithm)
    return resolved


def stored_config(values: Mapping[str, Any]) -> ConfigDict:
    """Returns a configuration of `config.json` or of a file of records, in the meaning of the version that wrote it.

    A field that it does not name did not exist then, and gets the value that runs were trained with.
    """
    named = flat(values)
    suite, algorithm = SUITES.get(named.get("env.suite", "")), AGENTS.get(named.get("agent.name", ""))
    if suite is None or algorithm is None:
        return ConfigDict(values)  # `resolve` refuses it
    return ConfigDict(traverse_util.unflatten_dict(earlier_values(suite, algorithm) | named, sep="."))


def earlier_values(suite: Suite, algorithm: Algorithm) -> dict[str, Any]:
    """Returns by dotted name what runs of versions without a field were trained with."""
    return {
        f"{section}.{name}".lstrip("."): value
        for section, section_class in sections_of(suite, algorithm).items()
        for name, value in fields.earlier_values(section_class).items()
    }


def unknown_field(name: str, config: ConfigDict) -> str:
    """Returns the sentence about a field that a configuration does not have, with the field that was probably meant."""
    section, _, leaf = name.rpartition(".")
    if section == "agent" and (today := _former_names(config.to_dict()).get(leaf)):
        return f"agent.{leaf} is called agent.{today} now"
    return fields.unknown_field(name, list(flat(config.to_dict())))


def plain_values(config: ConfigDict) -> dict[str, Any]:
    """Returns the values as nested dictionaries, under the names that fields have today.

    Raises:
      ConfigError: the values do not form a configuration.
    """
    try:
        values = json.loads(json.dumps(config.to_dict()))
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"the configuration holds a value that is neither number, text nor section: {error}"
        ) from None
    if today := _former_names(values):
        values["agent"] = {today.get(name, name): value for name, value in values["agent"].items()}
    return values


def _former_names(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the name of today of each field of the section `agent` that had another name in an earlier version."""
    agent = values.get("agent")
    name = agent.get("name") if isinstance(agent, dict) else None
    return fields.former_names(AGENTS[name].config_class) if isinstance(name, str) and name in AGENTS else {}


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested values by dotted name."""
    return traverse_util.flatten_dict(dict(values), sep=".")


def _registered(values: Mapping[str, Any], name: str, known: Mapping[str, Any]) -> str:
    section, leaf = name.split(".")
    found = values.get(section)
    value = found.get(leaf) if isinstance(found, dict) else None
    if value is None:
        raise ConfigError(f"{name} is missing; start from a file in configs/")
    return fields.Text("", tuple(known)).check(name, value)


def _complete(values: Mapping[str, Any], sections: Sections) -> dict[str, Any]:
    """Adds the default of each missing field; raises ConfigError if there is a field that no section has."""
    known = [
        f"{section}.{name}".lstrip(".")
        for section, section_class in sections.items()
        for name in fields.fields_of(section_class)
    ]
    for section in filter(None, sections):
        if not isinstance(values.get(section, {}), dict):
            raise ConfigError(f"{section}={values[section]!r} is not a section; start from a file in configs/")
    for name in flat(values):
        if name not in known:
            raise ConfigError(fields.unknown_field(name, known))
    complete = fields.defaults_of(RunConfig) | dict(values)
    for section, section_class in sections.items():
        if section:
            complete[section] = fields.defaults_of(section_class) | values.get(section, {})
    return complete


def _check(values: dict[str, Any], sections: Sections, *kinds: type, unset_allowed: tuple[str, ...] = ()) -> None:
    """Checks the fields of these kinds one by one, and gives each number the type of its field."""
    for section, section_class in sections.items():
        held = values[section] if section else values
        for name, field in fields.fields_of(section_class).items():
            full_name = f"{section}.{name}".lstrip(".")
            if isinstance(field, kinds) and not (held[name] is None and full_name in unset_allowed):
                held[name] = field.check(full_name, held[name])


def _resolve_encoder(config: RunConfig, algorithm: Algorithm) -> RunConfig:
    """Checks that the encoder accepts these images, and names the stage at which it is split."""
    name, env, through = config.encoder.name, config.env, config.seer.freeze_through
    if not (name in encoders.ENCODERS or name.startswith(haiku.PREFIX)):
        known = ", ".join(encoders.ENCODERS)
        raise ConfigError(f"encoder.name={name!r} is unknown; choose one of {known}, or {haiku.PREFIX}module:function")
    if env.crop_size > env.image_size:
        raise ConfigError(f"env.crop_size={env.crop_size} does not fit into env.image_size={env.image_size}; lower it")
    try:
        stages = algorithm.stage_names(config.encoder)
        if through is not None and through not in stages:
            raise ConfigError(
                f"seer.freeze_through={through!r} is not a stage of {name}; choose one of {', '.join(stages)}"
            )
        whole = _with_freeze_through(config, stages[-1])
        resolved = _with_freeze_through(config, through or stages[-1])
        sizes = [algorithm.latent_shape(each)[1] for each in (resolved, whole)]
    except haiku.HaikuError as error:
        raise ConfigError(str(error)) from None
    except ConfigError:
        raise
    except Exception as error:  # the user's own encoder may raise anything
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise ConfigError(f"encoder.name={name} cannot read {env.crop_size}-pixel images: {what}") from None
    if 0 in sizes:
        raise ConfigError(f"env.crop_size={env.crop_size} is too small for encoder.name={name}; raise it")
    return resolved


def _with_freeze_through(config: RunConfig, stage: str) -> RunConfig:
    return dataclasses.replace(config, seer=dataclasses.replace(config.seer, freeze_through=stage))


def _check_schedule(config: RunConfig, algorithm: Algorithm) -> None:
    period = _check_updates(config, algorithm)
    if config.learn_start + 2 * period > config.total_steps:
        raise ConfigError(
            f"learn_start={config.learn_start} is too close to total_steps={config.total_steps}: nothing would be"
            f" learned; lower it to at most {config.total_steps - 2 * period}"
        )
    first_window = (config.agent.n_step + 1) * config.num_envs
    if config.learn_start < first_window:
        raise ConfigError(
            f"learn_start={config.learn_start} comes before the first {config.agent.n_step}-step window of"
            f" {config.num_envs} environments is complete; raise it to at least {first_window}"
        )
    if config.seer.enabled:
        _check_freeze_step(config, period)


def _check_updates(config: RunConfig, algorithm: Algorithm) -> int:
    """Checks that environments and updates fit; returns the agent steps between two calls of `learn`."""
    larger, smaller = max(config.num_envs, config.update_every), min(config.num_envs, config.update_every)
    if larger % smaller:
        raise ConfigError(
            f"num_envs={config.num_envs} and update_every={config.update_every}: one must be a multiple of the other"
        )
    cycle = algorithm.updates_per_cycle(config.agent)
    if cycle > _MAX_CYCLE:
        raise ConfigError(
            f"the pattern of updates of agent.name={config.agent.name} repeats only after {cycle} updates, which are"
            f" compiled as one program; let it repeat after at most {_MAX_CYCLE}"
        )
    updates_at_once = max(1, config.num_envs // config.update_every)
    if updates_at_once > cycle and updates_at_once % cycle:
        raise ConfigError(
            f"num_envs={config.num_envs} with update_every={config.update_every} makes {updates_at_once} updates due at"
            f" once, which is not a multiple of the {cycle} after which the pattern of {config.agent.name} repeats;"
            " choose num_envs accordingly"
        )
    return max(config.num_envs, config.update_every * cycle)


def _check_freeze_step(config: RunConfig, period: int) -> None:
    seer = config.seer
    if seer.freeze_step + 2 * period > config.total_steps:
        raise ConfigError(
            f"seer.freeze_step={seer.freeze_step} is past total_steps={config.total_steps}: the encoder would never"
            " freeze; lower it or set seer.enabled=False"
        )
    if seer.freeze_step == 0 and seer.init_from is not None:
        return
    if seer.freeze_step < config.learn_start + 2 * period:
        raise ConfigError(
            f"seer.freeze_step={seer.freeze_step} is not past learn_start={config.learn_start}: an untrained"
            f" encoder would freeze; raise it to at least {config.learn_start + 2 * period}, or set it to 0 with"
            " seer.init_from=RUN_DIR"
        )


def _check_replay(config: RunConfig, algorithm: Algorithm) -> None:
    needed = replay.min_steps(config.agent.n_step, config.env.frame_stack) * config.num_envs
    if config.replay.capacity < needed:
        raise ConfigError(
            f"replay.capacity={config.replay.capacity} cannot hold one {config.agent.n_step}-step window and frame"
            f" stack of {config.num_envs} environments ({needed} rows); raise it or lower agent.n_step or num_envs"
        )
    if not config.seer.enabled or config.replay.allow_more_memory:
        return
    same_bytes = capacity.capacity_in_same_bytes(config)
    if same_bytes >= config.replay.capacity:
        return
    frame, latent = capacity.bytes_per_row(config)
    itemsize = jnp.dtype(config.replay.latent_dtype).itemsize
    narrow = [dtype for dtype in LATENT_DTYPES if latent * jnp.dtype(dtype).itemsize <= frame * itemsize]
    fixes = [f"set replay.latent_dtype={narrow[0]}"] if narrow else []
    if config.seer.freeze_through != algorithm.stage_names(config.encoder)[-1]:
        fixes.append(f"freeze up to a later stage than seer.freeze_through={config.seer.freeze_through}")
    raise ConfigError(
        f"a {config.replay.latent_dtype} latent of {config.encoder.name} takes {latent:,} bytes, a frame {frame:,}:"
        f" in the same memory replay.capacity={config.replay.capacity:,} would shrink to {same_bytes:,} at the"
        f" freeze; {', '.join([*fixes, 'use a smaller encoder'])}, or allow the replay to grow to"
        f" {config.replay.capacity * latent / 1e9:.2f} GB with replay.allow_more_memory=True"
    )
