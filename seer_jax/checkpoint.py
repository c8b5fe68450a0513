"""Files of a run that hold arrays: training states, and the stream of rows that the handover passes through.

Nothing is ever pickled. A file becomes visible under its name only when it is complete.
"""

import os
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
from flax import serialization

STATE_FILE = "state.msgpack"


def save_state(directory: pathlib.Path, tree) -> None:
    """Writes a tree of arrays as `directory/state.msgpack`, replacing an earlier one in one step."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f"{STATE_FILE}.partial"
    with partial.open("wb") as f:
        f.write(serialization.to_bytes(jax.device_get(tree)))
        f.flush()
        os.fsync(f.fileno())
    partial.replace(directory / STATE_FILE)


def load_state(directory: pathlib.Path) -> dict:
    """Reads what `save_state` wrote as nested dictionaries of NumPy arrays.

    Raises:
      FileNotFoundError: no state was ever saved there.
    """
    return serialization.msgpack_restore((directory / STATE_FILE).read_bytes())


class ChunkStream:
    """Chunks of named arrays on disk, written once in order and read back in the same order."""

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        self._count = 0
        directory.mkdir(parents=True, exist_ok=True)

    def append(self, **arrays: np.ndarray) -> None:
        path = self._directory / f"rows-{self._count:05d}.npz"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as f:
            np.savez(f, **arrays)
        partial.replace(path)
        self._count += 1

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for path in sorted(self._directory.glob("rows-*.npz")):
            with np.load(path, allow_pickle=False) as arrays:
                yield dict(arrays)
