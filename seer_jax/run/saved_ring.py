"""A replay ring on disk: its rows and their priorities in the order of time, in chunks.

A ring of another capacity can be restored from them, as long as the saved one had overwritten nothing.
"""

import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from seer_jax import files, replay
from seer_jax.seer.placed_ring import SeedRing

_CHUNK_ROWS = 4096  # rows, over all environments, in a file
_PRIORITY = "priority"  # name of the priorities among the arrays of a chunk


def save(directory: pathlib.Path, ring: SeedRing) -> None:
    """Writes rows and priorities of all times, oldest first; raises OSError if they cannot be written."""
    chunks = files.ChunkStream(directory)
    for rows, priority in ring.read(_CHUNK_ROWS):
        chunks.append(**{name: _as_numpy_format(x) for name, x in vars(rows).items()}, **{_PRIORITY: priority})


def restore(directory: pathlib.Path, ring: SeedRing, row: replay.Rows, counters: dict[str, np.ndarray]) -> None:
    """Fills a ring, chunk by chunk; one that lies on other hosts stays as it is.

    Args:
      directory: holds what `save` wrote.
      ring: an empty ring.
      row: shapes of the rows of one time.
      counters: `written` and `max_priority` of the saved ring.

    Raises:
      DamagedFileError: rows of other shapes or types, or another number of them, were saved.
    """
    if not ring.devices:
        return
    size = min(int(counters["written"]), ring.spec.num_steps)
    oldest, found, priorities = int(counters["written"]) - size, 0, np.zeros((size, ring.spec.num_envs), np.float32)
    for chunk in files.ChunkStream(directory):
        rows, priority = _fit(row, chunk, size - found)
        steps = len(rows.first)
        ring.write(oldest + found, rows)
        priorities[found : found + steps] = priority
        found += steps
    if found != size:
        raise files.DamagedFileError(f"{directory} holds {found} times of rows, not the {size} that were written")
    ring.restore(counters["max_priority"], priorities, begin=oldest)


def _as_numpy_format(array: np.ndarray) -> np.ndarray:
    """Views bfloat16, which NumPy's format does not have, as integers of the same width."""
    return array.view(np.uint16) if array.dtype == jnp.bfloat16 else array


def _fit(row: replay.Rows, chunk: dict[str, np.ndarray], room: int) -> tuple[replay.Rows, np.ndarray]:
    """Returns rows and priorities; raises DamagedFileError unless they fit into a ring with `room` free times."""
    like: dict[str, Any] = vars(row) | {_PRIORITY: row.reward}
    if chunk.keys() != like.keys():
        raise files.DamagedFileError(f"the saved rows do not fit: they hold {', '.join(sorted(chunk))}")
    for name, x in like.items():
        if x.dtype == jnp.bfloat16:  # undoes `_as_numpy_format`
            chunk[name] = chunk[name].view(x.dtype)
        y = chunk[name]
        if (x.shape, x.dtype) != (y.shape[1:], y.dtype) or len(y) > room:
            raise files.DamagedFileError(f"the saved rows do not fit: {name} is {y.dtype}{list(y.shape)}")
    priority = chunk.pop(_PRIORITY)
    return replay.Rows(**chunk), priority  # pyright: ignore[reportArgumentType]
