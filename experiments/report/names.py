"""Names of runs, and texts that hold them in place of paths, which mean something on one machine alone."""

import pathlib
import re
from typing import Any

from seer_jax.run import group

_ABSOLUTE_PATH = re.compile(r"(--[\w.]+=)?(/.*)")  # alone, or as the value of a flag


def runs_dir(directory: pathlib.Path) -> pathlib.Path:
    """Returns the directory that holds a run; for a seed of several, the one that holds the run of all of them."""
    parent = directory.absolute().parent
    return parent.parent if group.seeds_in(parent) else parent


def name(directory: pathlib.Path) -> str:
    """Returns the name of a run; that of a seed of several holds the name of their run."""
    return str(directory.absolute().relative_to(runs_dir(directory)))


def without_paths(value: Any, base: pathlib.Path) -> Any:
    """Returns a value of JSON in which absolute paths are replaced.

    A path below `base` becomes relative to it, and any other one the name that a run there would have. Paths are texts
    that begin with a slash, also behind `--flag=`; a step or a preset at the end, as in `RUN_DIR@STEP`, stays.

    Args:
      value: texts, numbers, and dictionaries, lists and tuples of such values.
      base: absolute path of the directory that holds the runs.
    """
    if isinstance(value, dict):
        return {key: without_paths(each, base) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(without_paths(each, base) for each in value)
    if not isinstance(value, str) or not (match := _ABSOLUTE_PATH.fullmatch(value)):
        return value
    flag, path = match[1] or "", pathlib.Path(match[2])
    return f"{flag}{path.relative_to(base) if path.is_relative_to(base) else name(path)}"
