"""Files that hold arrays: each appears under its name when it is complete and on disk, and none runs code when read."""

import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import serialization

TREE_FILE = "state.msgpack"
PARTIAL = ".partial"  # suffix of what is being written


class DamagedFileError(ValueError):
    """A file cannot be read back, or does not hold what was expected; the message names it."""


def write_file(path: pathlib.Path, content: bytes) -> None:
    """Writes a file and waits until it is on disk.

    Raises:
      OSError: it could not be written; an earlier file of this name is intact.
    """
    partial = path.with_name(f"{path.name}{PARTIAL}")
    with partial.open("wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    partial.replace(path)


def save_tree(directory: pathlib.Path, tree: Any) -> None:
    """Writes a tree of arrays into `directory`, replacing an earlier one in one step.

    The directory is made if it does not exist; its parents are not, so that a removed run does not appear again.

    Raises:
      OSError: it could not be written.
    """
    directory.mkdir(exist_ok=True)
    write_file(directory / TREE_FILE, serialization.to_bytes(jax.device_get(tree)))


def link_tree(source: pathlib.Path, target: pathlib.Path, *, without: str = "") -> None:
    """Makes a directory that holds the files of another one, which must not change any more.

    Files are linked. Where the file system cannot do that, they are copied.

    Args:
      source: the directory.
      target: the new one; its parent is made if it does not exist.
      without: name of a file to leave out.

    Raises:
      OSError: it could not be made.
    """
    target.parent.mkdir(exist_ok=True)
    target.mkdir()
    for path in source.iterdir():
        if path.name == without:
            continue
        try:
            (target / path.name).hardlink_to(path)
        except OSError:
            write_file(target / path.name, path.read_bytes())
    sync_directory(target)


def load_tree(directory: pathlib.Path) -> dict[str, Any]:
    """Reads the tree that `save_tree` wrote as nested dictionaries of NumPy arrays.

    Raises:
      DamagedFileError: there is none that can be read.
    """
    try:
        tree: Any = serialization.msgpack_restore((directory / TREE_FILE).read_bytes())
        return tree
    except Exception as error:  # a damaged or hostile file may raise anything
        raise DamagedFileError(f"{directory / TREE_FILE} cannot be read ({error})") from None


def fit_tree(like: Any, saved: dict[str, Any]) -> Any:
    """Gives the structure of `like` to a tree that `load_tree` returned.

    Args:
      like: a tree of shapes.
      saved: nested dictionaries of arrays.

    Raises:
      DamagedFileError: parts, shapes or types differ.
    """
    try:
        tree = serialization.from_state_dict(like, saved)
        differ = [
            f"{jax.tree_util.keystr(path)} {x.dtype}{list(x.shape)} instead of {y.dtype}{list(y.shape)}"
            for (path, y), x in zip(jax.tree_util.tree_leaves_with_path(like), jax.tree.leaves(tree), strict=True)
            if (x.shape, x.dtype) != (y.shape, y.dtype)
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedFileError(f"the saved state has other parts: {error}".splitlines()[0]) from None
    if differ:
        raise DamagedFileError(f"the saved state does not fit: it holds {differ[0]}")
    return tree


class ChunkStream:
    """Chunks of named arrays on disk, written once in order and read back in the same order.

    Args:
      directory: holds the chunks; it is made if it does not exist, in a parent that does.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._count = 0
        directory.mkdir(exist_ok=True)

    def append(self, **arrays: np.ndarray) -> None:
        """Writes the next chunk and waits until it is on disk; raises OSError if it cannot be written."""
        path = self._directory / f"rows-{self._count:05d}.npz"
        partial = path.with_suffix(PARTIAL)
        with partial.open("wb") as f:
            np.savez(f, **arrays)  # pyright: ignore[reportArgumentType]
            f.flush()
            os.fsync(f.fileno())
        partial.replace(path)
        self._count += 1

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields the chunks; raises DamagedFileError at one that cannot be read back."""
        for path in sorted(self._directory.glob("rows-*.npz")):
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    chunk = dict(arrays)
            except Exception as error:  # a damaged or hostile file may raise anything
                raise DamagedFileError(f"{path} cannot be read ({error})") from None
            yield chunk


def checksum(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sync_directory(directory: pathlib.Path) -> None:
    """Waits until the names in a directory are on disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
