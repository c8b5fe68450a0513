"""From the configuration that a file and the command line give to a typed one, before anything starts or is written."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict, config_dict

from seer_jax import fields
from seer_jax.agents.base import Algorithm
from seer_jax.agents.registry import AGENTS
from seer_jax.config import AUTO, SIGNAL_EVERY, EncoderConfig, MeshConfig, ReplayConfig, RunConfig, SeerConfig
from seer_jax.envs.registry import SUITES
from seer_jax.envs.suite import Suite
from seer_jax.fields import ConfigError
from seer_jax.networks import encoders, haiku
from seer_jax.run import rules

_FREEZE_TIME = ("seer.freeze_step", "seer.freeze_after", "seer.freeze_before")

# The field of earlier versions that `replay_ratio` replaces: agent steps between two updates.
_UPDATE_EVERY = "update_every"
_REPLACED = f"{_UPDATE_EVERY} is gone: set replay_ratio, the updates per agent step, to 1 / {_UPDATE_EVERY}"

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
        "mesh": MeshConfig,
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
        values = {name: _typed(declared[name], default) for name, default in fields.defaults_of(section_class).items()}
        tree |= {section: values} if section else values
    tree["env"]["suite"], tree["agent"]["name"] = suite, agent
    return ConfigDict(tree)


def _typed(field: fields.Field, default: Any) -> Any:
    """Returns the default of a field, so that a configuration file and the command line can set what it may hold."""
    if default is None:
        return config_dict.placeholder(field.kind)
    may_hold_word = isinstance(field, fields.Number) and field.word is not None
    return config_dict.FieldReference(default, field_type=object) if may_hold_word else default


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
    seer = values["seer"]
    if seer["signal_every"] is None:
        seer["signal_every"] = SIGNAL_EVERY if seer["enabled"] is True else 0
    if seer["replay_ratio"] is None:
        seer["replay_ratio"] = values["replay_ratio"]
    if seer["reset_heads_every"] is None:
        seer["reset_heads_every"] = values["agent"]["reset_heads_every"]
    unset_allowed = ("seer.freeze_after", "seer.freeze_before")
    _check(values, sections, fields.Number, fields.Numbers, fields.Flag, unset_allowed=unset_allowed)
    if seer["enabled"] and seer["freeze_step"] == AUTO:
        seer["freeze_step"] = rules.automatic_freeze_step(seer, values["total_steps"])
    resolved = RunConfig(
        **{name: value for name, value in values.items() if name not in sections},
        **{name: section(**values[name]) for name, section in sections.items() if name},
    )
    suite.check(resolved.env)
    _check_encoder(resolved, algorithm)
    algorithm.check(resolved)
    resolved = _name_frozen_stage(resolved, algorithm)
    rules.check_mesh(resolved)
    rules.check_schedule(resolved, algorithm)
    rules.check_replay(resolved, algorithm)
    return resolved


def stored_config(values: Mapping[str, Any]) -> ConfigDict:
    """Returns a configuration of `config.json` or of a file of records, in the meaning of the version that wrote it.

    A field that it does not name did not exist then, and gets the value that runs were trained with.

    Raises:
      ConfigError: a field that another one has replaced holds no value that it could hold.
    """
    named = flat(values)
    suite, algorithm = SUITES.get(named.get("env.suite", "")), AGENTS.get(named.get("agent.name", ""))
    if suite is None or algorithm is None:
        return ConfigDict(values)  # `resolve` refuses it
    if _UPDATE_EVERY in named:
        every = fields.Number(_UPDATE_EVERY, 1, 10_000, int).check(_UPDATE_EVERY, named.pop(_UPDATE_EVERY))
        named |= dict.fromkeys(("replay_ratio", "seer.replay_ratio"), 1 / every) | {"seer.reset_heads_every": 0}
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
    if name == _UPDATE_EVERY:
        return _REPLACED
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
        for former in sorted(today.keys() & values["agent"]):
            if today[former] in values["agent"]:
                raise ConfigError(
                    f"agent.{former} is called agent.{today[former]} now, and both are set; leave one out"
                )
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


def in_effect(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested values by dotted name, without the time of a freeze that there is none of."""
    named = flat(values)
    return {name: value for name, value in named.items() if named["seer.enabled"] or name not in _FREEZE_TIME}


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
        if name == _UPDATE_EVERY:
            raise ConfigError(_REPLACED)
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


def _check_encoder(config: RunConfig, algorithm: Algorithm) -> None:
    """Raises ConfigError if there is no such encoder, or its images are larger than the frames."""
    name, env = config.encoder.name, config.env
    if not (name in encoders.ENCODERS or name.startswith(haiku.PREFIX)):
        known = ", ".join(encoders.ENCODERS)
        raise ConfigError(f"encoder.name={name!r} is unknown; choose one of {known}, or {haiku.PREFIX}module:function")
    if config.encoder.width > 1 and name not in encoders.WIDENED:
        widened = " or ".join(encoders.WIDENED)
        raise ConfigError(
            f"encoder.width={config.encoder.width}: encoder.name={name} has one width; set it to 1, or use {widened}"
        )
    try:
        algorithm.stage_names(config.encoder)
    except haiku.HaikuError as error:
        raise ConfigError(str(error)) from None
    if env.crop_size > env.image_size:
        raise ConfigError(f"env.crop_size={env.crop_size} does not fit into env.image_size={env.image_size}; lower it")


def _name_frozen_stage(config: RunConfig, algorithm: Algorithm) -> RunConfig:
    """Names the stage at which the encoder is split; raises ConfigError if the encoder cannot read these images."""
    name, env, through = config.encoder.name, config.env, config.seer.freeze_through
    stages = algorithm.stage_names(config.encoder)
    if through is not None and through not in stages:
        raise ConfigError(
            f"seer.freeze_through={through!r} is not a stage of {name}; choose one of {', '.join(stages)}"
        )
    whole = _with_freeze_through(config, stages[-1])
    resolved = _with_freeze_through(config, through or stages[-1])
    if 0 in (_latent_size(resolved, algorithm), _latent_size(whole, algorithm)):
        raise ConfigError(f"env.crop_size={env.crop_size} is too small for encoder.name={name}; raise it")
    return resolved


def _latent_size(config: RunConfig, algorithm: Algorithm) -> int:
    try:
        return algorithm.latent_shape(config)[1]
    except Exception as error:  # the user's own encoder may raise anything
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise ConfigError(
            f"encoder.name={config.encoder.name} cannot read {config.env.crop_size}-pixel images: {what}"
        ) from None


def _with_freeze_through(config: RunConfig, stage: str) -> RunConfig:
    return dataclasses.replace(config, seer=dataclasses.replace(config.seer, freeze_through=stage))
