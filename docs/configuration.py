"""Writes `configuration.md`: every field of a configuration, its default, what it may hold and means.

python -m docs.configuration
"""

import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import curl_dmc, rainbow_atari
from seer_jax import fields
from seer_jax.agents.registry import AGENTS
from seer_jax.config import AgentConfig, EncoderConfig, EnvConfig, ReplayConfig, RunConfig, SeerConfig
from seer_jax.envs.registry import SUITES
from seer_jax.networks import encoders
from seer_jax.run import resolve

PAGE = pathlib.Path(__file__).with_suffix(".md")
_HEAD = """# Configuration

Written by `python -m docs.configuration` from the dataclasses that declare the fields. Every field can be set on the
command line, as `--config.seer.freeze_step=30000`; whole numbers also as `1e6`. All values are checked, alone and
together, before anything starts or is written. Steps are agent steps; one is `env.action_repeat` frames. A field that
is unset follows from the protocol, the task or the algorithm.
"""
_UNSET = {
    "suite": "set by the file",
    "task": "set by the file",
    "name": "set by the file",
    "freeze_through": "the algorithm's last stage",
    "init_from": "a new encoder",
}


class Rule(NamedTuple):
    """A rule between fields.

    Attributes:
      text: the rule.
      preset: arguments of `get_config` of Rainbow, or None for CURL's preset `quick`.
      overrides: values that break this rule alone, by dotted name.
      message: part of the error.
    """

    text: str
    preset: str | None
    overrides: Mapping[str, Any]
    message: str


# In the order in which they are checked.
RULES = (
    Rule(
        "`agent.name` is an algorithm for the actions of `env.suite`: Rainbow for discrete ones, CURL for vectors.",
        None,
        {"env": rainbow_atari.get_config().env},
        "needs continuous actions",
    ),
    Rule("`env.task` is a task of `env.suite`.", "quick", {"env.task": "nothing"}, "is no Atari game"),
    Rule("Rainbow stores one latent of a row: `seer.num_copies` is 1.", "quick", {"seer.num_copies": 2}, "set it to 1"),
    Rule(
        "Rainbow's `agent.target_update_every` is a multiple of `update_every`.",
        "quick",
        {"update_every": 4, "agent.target_update_every": 1001},
        "make it a multiple",
    ),
    Rule(
        "CURL's `agent.log_std_min` is not above `agent.log_std_max`.",
        None,
        {"agent.log_std_min": 3.0},
        "is above agent.log_std_max",
    ),
    Rule(
        "`encoder.name` is an encoder, or `haiku:MODULE:FUNCTION`.", "quick", {"encoder.name": "nothing"}, "is unknown"
    ),
    Rule("`env.crop_size` fits into `env.image_size`.", "quick", {"env.image_size": 80}, "does not fit"),
    Rule(
        "`seer.freeze_through` is a stage of the encoder (below).",
        "quick",
        {"seer.freeze_through": "dense"},
        "is not a stage",
    ),
    Rule("`env.crop_size` is large enough for the encoder.", "quick", {"env.crop_size": 20}, "is too small"),
    Rule(
        "Of `num_envs` and `update_every` one is a multiple of the other.",
        "quick",
        {"update_every": 5},
        "one must be a multiple of the other",
    ),
    Rule(
        "The pattern of CURL's updates repeats after at most 8 updates: the least common multiple of"
        " `agent.updates_per_actor_update` and `agent.updates_per_target_update`.",
        None,
        {"agent.updates_per_actor_update": 7},
        "let it repeat after at most 8",
    ),
    Rule(
        "Updates that are due at once, `num_envs / update_every`, are a multiple of the updates of that pattern.",
        None,
        {"num_envs": 3},
        "choose num_envs accordingly",
    ),
    Rule(
        "`learn_start` is at least two calls of `learn` before `total_steps`.",
        "quick",
        {"learn_start": 19_999},
        "nothing would be learned",
    ),
    Rule(
        "`learn_start` is not before the first `agent.n_step` window is complete, `(n_step + 1) * num_envs`.",
        "quick",
        {"learn_start": 20},
        "is complete; raise it",
    ),
    Rule(
        "`seer.freeze_step` is at least two calls of `learn` before `total_steps`.",
        "quick",
        {"seer.freeze_step": 20_000},
        "would never freeze",
    ),
    Rule(
        "`seer.freeze_step` is at least two calls of `learn` after `learn_start`, or 0 with `seer.init_from`.",
        "quick",
        {"seer.freeze_step": 1600},
        "an untrained encoder would freeze",
    ),
    Rule(
        "`replay.capacity` holds one window and frame stack of each environment.",
        "quick",
        {"replay.capacity": 50},
        "cannot hold one",
    ),
    Rule(
        "Latents of `replay.capacity` rows fit into the bytes of the frames, or `replay.allow_more_memory` is True.",
        "quick",
        {"encoder.name": "canonical"},
        "would shrink to",
    ),
)


def text() -> str:
    """Returns the page."""
    parts = [
        _HEAD,
        "## The run\n",
        *_fields("", RunConfig),
        "\n## `env`\n\nFields of every suite. Suites have others, and other defaults:\n",
        *_fields("env", EnvConfig),
        *(line for name, suite in SUITES.items() for line in _own("env", f"`env.suite={name}`", suite.config_class)),
        "\n## `agent`\n\nFields of every algorithm. Algorithms have others, and other defaults:\n",
        *_fields("agent", AgentConfig),
        *(line for name, agent in AGENTS.items() for line in _own("agent", f"`agent.name={name}`", agent.config_class)),
        *(
            line
            for name, section in (("encoder", EncoderConfig), ("replay", ReplayConfig), ("seer", SeerConfig))
            for line in (f"\n## `{name}`\n", *_fields(name, section))
        ),
        "\n## Encoders and their stages\n",
        "Values of `seer.freeze_through`. Stages up to the named one freeze; unset, all of them.\n",
        *_stages(),
        "\n## Rules between fields\n",
        *(f"- {rule.text}" for rule in RULES),
        "\n## Presets\n\nA preset is named behind a colon: `--config=rainbow_atari:quick`.\n",
        "`configs/rainbow_atari.py`\n",
        *_presets(rainbow_atari.get_config, rainbow_atari.presets()),
        "\n`configs/curl_dmc.py`; `paper` itself sets what stands in the file\n",
        *_presets(curl_dmc.get_config, curl_dmc.presets(1000)),
        "\nTasks with lengths and replays of their own follow the preset, as `:constrained,walker-walk`:\n",
        *_tasks(),
    ]
    return "\n".join(parts) + "\n"


def _fields(section: str, section_class: type, *, base: type | None = None) -> Iterator[str]:
    """Yields a table of fields; with `base` only those that differ from it."""
    declared, defaults = fields.fields_of(section_class), fields.defaults_of(section_class)
    inherited = fields.defaults_of(base) if base else {}
    yield "| field | default | meaning | allowed |\n|---|---|---|---|"
    for name, field in declared.items():
        if name not in inherited or defaults[name] != inherited[name]:
            full_name = f"{section}.{name}".lstrip(".")
            default = _UNSET.get(name, "by the protocol") if defaults[name] is None else _format(defaults[name])
            yield f"| `{full_name}` | {default} | {field.meaning} | {field.allowed} |"


def _own(section: str, title: str, section_class: type) -> Iterator[str]:
    summary = (section_class.__doc__ or "").strip().splitlines()[0]
    yield f"\n### {title}\n\n{summary}\n"
    yield from _fields(section, section_class, base={"env": EnvConfig, "agent": AgentConfig}[section])


def _stages() -> Iterator[str]:
    yield f"| `encoder.name` | {' | '.join(f'`{name}`' for name in AGENTS)} |\n|---|{'---|' * len(AGENTS)}"
    for encoder in (*encoders.ENCODERS, "haiku:seer_jax.configs.curl_haiku:encoder"):
        stages = (", ".join(agent.stage_names(EncoderConfig(name=encoder))) for agent in AGENTS.values())
        shown = encoder if encoder in encoders.ENCODERS else "haiku:MODULE:FUNCTION"
        yield f"| `{shown}` | {' | '.join(stages)} |"


def _presets(get_config: Callable[[str], ConfigDict], presets: Iterable[str]) -> Iterator[str]:
    paper = resolve.flat(get_config("paper").to_dict())
    yield "| preset | differs from `paper` in |\n|---|---|"
    for preset in presets:
        values = resolve.flat(get_config(preset).to_dict())
        changed = (f"`{name}={value}`" for name, value in values.items() if value != paper[name])
        yield f"| `{preset}` | {', '.join(changed) or 'nothing'} |"


def _tasks() -> Iterator[str]:
    yield "| task | `total_steps` | `replay.capacity` if constrained |\n|---|---|---|"
    for task, (total_steps, constrained_capacity) in curl_dmc.TASKS.items():
        yield f"| `{task}` | {total_steps:,} | {constrained_capacity:,} |"


def _format(value: Any) -> str:
    return f"{value:,}" if type(value) is int else str(value)


if __name__ == "__main__":
    PAGE.write_text(text())
