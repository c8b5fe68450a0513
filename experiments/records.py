"""What runs leave to be compared: a run directory, or the few of its records that are kept when it is gone.

A kept file holds one JSON object a line. The first is of kind `run` and tells name, arm, configuration and manifest;
the others are as in `metrics.jsonl`.
"""

import dataclasses
import json
import pathlib
from typing import Any

_KEPT = ("train", "eval", "freeze", "end")  # not the many of single episodes


class RecordsError(ValueError):
    """There are no records of a run where some were expected; the message says where."""


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of one run.

    Attributes:
      name: of the run.
      arm: what it is compared as.
      config: resolved, as nested dictionaries.
      manifest: versions and devices.
      lines: as in `metrics.jsonl`.
    """

    name: str
    arm: str
    config: dict[str, Any]
    manifest: dict[str, Any]
    lines: list[dict[str, Any]]

    @property
    def task(self) -> str:
        return self.config["env"]["task"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def finished(self) -> bool:
        return bool(self.of_kind("end"))

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["kind"] == kind]

    def keep(self, path: pathlib.Path) -> None:
        """Writes the file that `read` reads."""
        head = {"kind": "run", "name": self.name, "arm": self.arm, "config": self.config, "manifest": self.manifest}
        kept = [head, *(line for line in self.lines if line["kind"] in _KEPT)]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(line)}\n" for line in kept))


def read(path: pathlib.Path, arm: str | None = None) -> Records:
    """Reads the directory of a run, finished or not, or a kept file.

    Args:
      path: of either.
      arm: what to compare it as; unset, what the file says, or what the configuration says of a directory.

    Raises:
      RecordsError: it is neither.
    """
    try:
        if path.is_dir():
            config, manifest = (json.loads((path / f"{name}.json").read_text()) for name in ("config", "manifest"))
            lines = _lines(path / "metrics.jsonl")
            return Records(path.name, arm or _arm(config), config, manifest, lines)
        head, *lines = _lines(path)
        return Records(head["name"], arm or head["arm"], head["config"], head["manifest"], lines)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordsError(f"{path} is neither the directory of a run nor a file of its records ({error})") from None


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]  # a run that goes on may be writing its last


def _arm(config: dict[str, Any]) -> str:
    name = config["agent"]["name"]
    name = {"rainbow": "Rainbow", "curl_sac": "CURL"}.get(name, name)
    return f"{name} + SEER" if config["seer"]["enabled"] else name
