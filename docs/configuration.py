"""Writes `configuration.md`: every field of a configuration, what it means, may hold and is.

python -m docs.configuration
"""

import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict

from configs import curl_dmc, rainbow_atari
from seer_jax.agents.registry import AGENTS
from seer_jax.envs.registry import SUITES
from seer_jax.fields import Fields
from seer_jax.run import resolve as config_lib

PAGE = pathlib.Path(__file__).with_suffix(".md")
_HEAD = """# Configuration

Written by `python -m docs.configuration` from `configs/` and from what the code checks. Every field can be set on the
command line, as `--config.seer.freeze_step=30000`, whole numbers also as `1e6`. Values are checked together before
anything starts or is written. Steps are agent steps, one of `env.action_repeat` frames. The values are those of the
preset `paper`; what is unset there follows from the protocol, the task or the algorithm.
"""


def text() -> str:
    """Returns the page."""
    rainbow, curl = _flat(rainbow_atari.get_config("paper")), _flat(curl_dmc.get_config("paper"))
    general = config_lib.general_fields()
    own = [{**SUITES[values["env.suite"]].fields, **AGENTS[values["agent.name"]].FIELDS} for values in (rainbow, curl)]
    shared = {name: field for name, field in general.items() if not any(name in fields for fields in own)}
    # What an algorithm or a suite defines anew is told with each.
    own = [{name: field for name, field in general.items() if name not in shared} | fields for fields in own]
    parts = [
        _HEAD,
        "## Every run\n",
        *_fields(shared, {"Rainbow": rainbow, "CURL": curl}),
        "\n## Rainbow and Atari: `configs/rainbow_atari.py`\n",
        *_fields(own[0], {"value": rainbow}),
        *_presets(rainbow_atari.get_config, rainbow_atari.presets()),
        "\n## CURL and Control: `configs/curl_dmc.py`\n",
        *_fields(own[1], {"value": curl}),
        *_presets(curl_dmc.get_config, curl_dmc.presets(1000)),
        "\nTasks with lengths and replays of their own go behind the preset, as `:constrained,walker-walk`:\n",
        *_tasks(),
    ]
    return "\n".join(parts) + "\n"


def _fields(fields: Fields, values: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield f"| field | {' | '.join(values)} | meaning | may be |\n|---|{'---|' * len(values)}---|---|"
    for name, field in fields.items():
        told = " | ".join(_told(column[name]) for column in values.values())
        yield f"| `{name}` | {told} | {field.meaning} | {field.allowed} |"


def _presets(get_config: Callable[[str], ConfigDict], presets: Iterable[str]) -> Iterator[str]:
    paper = _flat(get_config("paper"))
    yield "\n| preset | differs from `paper` in |\n|---|---|"
    for preset in presets:
        changed = (f"`{name}={value}`" for name, value in _flat(get_config(preset)).items() if value != paper[name])
        yield f"| `{preset}` | {', '.join(changed) or 'nothing'} |"


def _tasks() -> Iterator[str]:
    yield "| task | `total_steps` | `replay.capacity` if constrained |\n|---|---|---|"
    for task, (total_steps, constrained_capacity) in curl_dmc.TASKS.items():
        yield f"| `{task}` | {total_steps:,} | {constrained_capacity:,} |"


def _flat(config: ConfigDict) -> dict[str, Any]:
    return traverse_util.flatten_dict(config.to_dict(), sep=".")


def _told(value: Any) -> str:
    return "unset" if value is None else f"{value:,}" if type(value) is int else str(value)


if __name__ == "__main__":
    PAGE.write_text(text())
