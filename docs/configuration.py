"""Writes `configuration.md`: the fields, presets, protocols, stages and rules of a configuration.

python -m docs.configuration
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import curl_dmc, rainbow_atari
from docs.configuration_rules import RULES, WARNINGS, Rule
from seer_jax import fields
from seer_jax.agents.curl import CurlConfig
from seer_jax.agents.rainbow import RainbowConfig
from seer_jax.agents.registry import AGENTS
from seer_jax.config import (
    SIGNAL_EVERY,
    EncoderConfig,
    EnvConfig,
    MeshConfig,
    ReplayConfig,
    RunConfig,
    SeerConfig,
)
from seer_jax.envs import atari, dmc
from seer_jax.envs.atari_suite import AtariConfig
from seer_jax.envs.dmc_suite import DmcConfig
from seer_jax.networks.encoders import ENCODERS
from seer_jax.run.resolve import default_config, flat

PAGE = pathlib.Path(__file__).with_suffix(".md")
_HEAD = """# Configuration

This page is written by `python -m docs.configuration` from the dataclasses that the code reads. Every field can be set
on the command line, as `--config.seer.freeze_step=30000`, and whole numbers also as `1e6`. All values are checked
together before anything starts or is written. Steps are agent steps; one agent step is `env.action_repeat` frames.

A configuration file names a suite and an algorithm, `default_config(suite="atari", agent="rainbow")`, and sets the
values that differ from the defaults below. Fields that are unset follow from others. A field that does not exist is
refused.
"""
# By name of the class; the fields of the run itself have no section.
_SECTIONS = {
    RunConfig: ("", "The run"),
    EnvConfig: ("env", "`env` of a suite of your own (`EnvConfig`; see [the tutorial](tutorial.md))"),
    AtariConfig: ("env", "`env` with `suite=atari` (`AtariConfig`)"),
    DmcConfig: ("env", "`env` with `suite=dmc` (`DmcConfig`)"),
    RainbowConfig: ("agent", "`agent` with `name=rainbow` (`RainbowConfig`)"),
    CurlConfig: ("agent", "`agent` with `name=curl_sac` (`CurlConfig`)"),
    EncoderConfig: ("encoder", "`encoder`"),
    ReplayConfig: ("replay", "`replay`"),
    SeerConfig: ("seer", "`seer`"),
    MeshConfig: ("mesh", "`mesh`"),
}
_FROM_FILE = "unset: the configuration file sets it"
_UNSET = {  # what an unset field follows from
    "suite": _FROM_FILE,
    "task": _FROM_FILE,
    "name": _FROM_FILE,
    "freeze_through": "unset: follows from `agent.name` and `encoder.name`",
    **dict.fromkeys(("freeze_after", "freeze_before"), "unset: no bound"),
    "replay_ratio": "unset: that of the run",
    "reset_heads_every": "unset: that of `agent`",
    "signal_every": f"unset: {SIGNAL_EVERY:,} with `seer.enabled`, else 0",
    "init_from": "unset: the encoder starts from new parameters",
    **{item.name: "unset: follows from `env.protocol`" for item in dataclasses.fields(atari.Protocol)},
    **dict.fromkeys(dmc.protocol_items(dmc.PROTOCOLS["seer"], ""), "unset: follows from `env.protocol` and `env.task`"),
}
_MAY_BE = {  # names that other modules check
    "encoder.name": f"{', '.join(ENCODERS)}, haiku:MODULE:FUNCTION",
    "seer.freeze_through": "a stage of the encoder",
}


def text() -> str:
    """Returns the page."""
    parts = [
        _HEAD,
        "## Fields",
        *(part for section_class in _SECTIONS for part in _section(section_class)),
        "\n## Presets",
        "\nA preset goes after a colon: `--config=configs/rainbow_atari.py:constrained`. The line of `paper` says how\n"
        "it differs from the defaults. The other lines say how they differ from `paper`.",
        *_presets("configs/rainbow_atari.py", rainbow_atari.get_config, rainbow_atari.presets()),
        *_presets("configs/curl_dmc.py", curl_dmc.get_config, curl_dmc.presets("cartpole-swingup")),
        "\nThese tasks have a length and a replay of their own. The task goes after the preset:\n"
        "`:constrained,walker-walk`. Of all but `cartpole-swingup`, `seer.freeze_step` is `auto`.\n",
        *_tasks(),
        "\n## Protocols",
        "\n[protocols.md](protocols.md) describes them.",
        *_atari_protocols(),
        *_dmc_protocols(),
        "\n## Stages of the encoders",
        "\n`seer.freeze_through` is one of these names. Unset, it is the last one.\n",
        *_stages(),
        "\n## Rules between fields",
        "\nThey are checked in this order, after each value alone. Each example, set in the configuration file of its\n"
        "line, is refused.\n",
        *_rules(RULES, "refused"),
        "\nTwo more checks are made before a run writes anything. The encoder of `seer.init_from` must fit; a message\n"
        "names the fields that differ. Ring and parameters must fit into the memory of the device; otherwise the plan\n"
        "of the run is printed, as by `--plan`.",
        "\n## Warnings",
        "\nA run that breaks one of these rules starts. It prints a line about it first; `--plan` does, too.\n"
        "`seer_jax.run.rules.warnings(resolve(config))` returns these lines in Python.\n",
        *_rules(WARNINGS, "warned of"),
    ]
    return "\n".join(parts) + "\n"


def _section(section_class: type) -> Iterator[str]:
    section, title = _SECTIONS[section_class]
    yield f"\n### {title}\n\n| field | default | may be | meaning |\n|---|---|---|---|"
    defaults = fields.defaults_of(section_class)
    for name, field in fields.fields_of(section_class).items():
        full_name = f"{section}.{name}".lstrip(".")
        default = _UNSET[name] if defaults[name] is None else _shown(defaults[name])
        yield f"| `{full_name}` | {default} | {_MAY_BE.get(full_name, field.allowed)} | {field.meaning} |"


def _presets(file: str, get_config: Callable[[str], ConfigDict], presets: Iterable[str]) -> Iterator[str]:
    yield f"\n| `{file}` | differs in |\n|---|---|"
    paper = get_config("paper")
    values = paper.to_dict()
    defaults = default_config(suite=values["env"]["suite"], agent=values["agent"]["name"])
    for preset in presets:
        reference = defaults if preset == "paper" else paper
        before, after = (flat(config.to_dict()) for config in (reference, get_config(preset)))
        changes = [f"`{name}={value}`" for name, value in after.items() if value != before[name]]
        yield f"| `{preset}` | {', '.join(changes)} |"


def _tasks() -> Iterator[str]:
    yield "| task | `total_steps` | `replay.capacity` of `constrained` |\n|---|---|---|"
    for task, (total_steps, constrained_capacity) in curl_dmc.TASKS.items():
        yield f"| `{task}` | {total_steps:,} | {constrained_capacity:,} |"


def _atari_protocols() -> Iterator[str]:
    names = " | ".join(f"`{name}`" for name in atari.PROTOCOLS)
    yield f"\n| `env.protocol` with `env.suite=atari` | {names} |\n|---|{'---|' * len(atari.PROTOCOLS)}"
    for item in dataclasses.fields(atari.Protocol):
        values = " | ".join(_shown(getattr(protocol, item.name)) for protocol in atari.PROTOCOLS.values())
        yield f"| `env.{item.name}` | {values} |"


def _dmc_protocols() -> Iterator[str]:
    names = " | ".join(f"`{name}`" for name in dmc.PROTOCOLS)
    yield f"\n| `env.protocol` with `env.suite=dmc` | {names} |\n|---|{'---|' * len(dmc.PROTOCOLS)}"
    domains = sorted({task.partition("-")[0] for task in dmc.tasks()})
    for item in dmc.protocol_items(dmc.PROTOCOLS["seer"], ""):
        cells = []
        for protocol in dmc.PROTOCOLS.values():
            usual = dmc.protocol_items(protocol, "")[item]
            of_domain = {domain: dmc.protocol_items(protocol, f"{domain}-")[item] for domain in domains}
            special = [f"{domain} {value}" for domain, value in of_domain.items() if value != usual]
            cells.append(f"{usual}; {', '.join(special)}")
        yield f"| `env.{item}` | {' | '.join(cells)} |"


def _stages() -> Iterator[str]:
    yield f"| `encoder.name` | {' | '.join(f'`{name}`' for name in AGENTS)} |\n|---|{'---|' * len(AGENTS)}"
    for encoder in ENCODERS:
        names = (algorithm.stage_names(EncoderConfig(name=encoder)) for algorithm in AGENTS.values())
        yield f"| `{encoder}` | {' | '.join(', '.join(f'`{name}`' for name in each) for each in names)} |"


def _rules(rules: Iterable[Rule], outcome: str) -> Iterator[str]:
    yield f"| rule | {outcome} | in |\n|---|---|---|"
    for rule in rules:
        example = ", ".join(f"`{name}={value}`" for name, value in rule.example.items())
        yield f"| {rule.meaning} | {example} | `{rule.config_file.__name__.rpartition('.')[2]}` |"


def _shown(value: Any) -> str:
    return f"{value:,}" if type(value) is int else str(value)


if __name__ == "__main__":
    PAGE.write_text(text())
