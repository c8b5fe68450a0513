"""Files of a run that hold arrays: checkpoints, and the stream of rows that the handover passes through.

A checkpoint is a directory of its own that gets its name when it is complete and on disk, and the one before it stays
until then. Its manifest holds a checksum of each file. Nothing is ever pickled, so that reading runs no code.
"""

import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from seer_jax import replay

FORMAT = 1
DIRECTORY = "checkpoints"  # in that of a run
STATE_FILE = "state.msgpack"
MANIFEST_FILE = "manifest.json"
_KEPT = 2  # checkpoints, so that there is another if the newest is damaged
_CHUNK_ROWS = 4096  # rows, over all environments, in a file of a checkpoint
_PARTIAL = ".partial"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says why."""


class Checkpoint(NamedTuple):
    """A complete checkpoint.

    Attributes:
      directory: that holds it.
      progress: what the host knew of the run, as `save` was given it.
    """

    directory: pathlib.Path
    progress: dict[str, Any]

    def restore(self, like: dict[str, Any], spec: replay.RingSpec, ring: replay.Ring) -> tuple[Any, replay.Ring]:
        """Puts trees and ring on the device, the ring chunk by chunk.

        Args:
          like: shapes of the trees that were saved.
          spec: of the ring.
          ring: its shapes.

        Raises:
          CheckpointError: something of another shape or type was saved.
        """
        rows, rest = _split(ring)
        trees = fit(like | {"ring": rest}, load_state(self.directory))
        trees = jax.tree.map(jnp.array, trees)  # copies: what NumPy owns cannot be donated
        slots = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rows)
        at = 0
        for chunk in ChunkStream(self.directory):
            some = _fit_rows(rows, chunk)
            slots, at = _write_slots(slots, some, np.int32(at)), at + len(some.first)
        if at != min(int(trees["ring"]["written"]), spec.num_steps):
            raise CheckpointError(f"{self.directory} holds {at} times of rows, not those that were written")
        return trees, replay.Ring(rows=slots, **trees.pop("ring"))


def save(
    directory: pathlib.Path, number: int, *, progress: dict[str, Any], trees: dict[str, Any], ring: replay.Ring
) -> Checkpoint:
    """Writes a checkpoint and removes those before the one before it.

    Args:
      directory: of all checkpoints of a run.
      number: of this one; higher is newer.
      progress: what the host knows of the run, for JSON.
      trees: by name, of arrays.
      ring: is read chunk by chunk.

    Raises:
      OSError: it could not be written; those before it are intact.
    """
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{number:06d}"
    partial = directory / f"{target.name}{_PARTIAL}"
    for leftover in directory.glob(f"*{_PARTIAL}"):
        shutil.rmtree(leftover)
    try:
        rows, rest = _split(ring)
        save_state(partial, trees | {"ring": rest})
        chunks, num_steps, num_envs = ChunkStream(partial), *ring.rows.first.shape
        size = min(int(ring.written), num_steps)
        chunk_steps = max(1, _CHUNK_ROWS // num_envs)
        for begin in range(0, size, chunk_steps):
            some = _read_slots(rows, np.int32(begin), min(chunk_steps, size - begin))
            chunks.append(**{name: _plain(x) for name, x in vars(jax.device_get(some)).items()})
        files = {path.name: _checksum(path) for path in sorted(partial.iterdir())}
        manifest = {"format": FORMAT, "progress": progress, "progress_sha256": _digest(progress), "files": files}
        write_whole(partial / MANIFEST_FILE, json.dumps(manifest, indent=2).encode())
        _sync(partial)
        if target.exists():
            shutil.rmtree(target)  # a damaged one that the run went back behind
        partial.rename(target)
        _sync(directory)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in _numbered(directory)[:-_KEPT]:
        shutil.rmtree(old.rename(old.with_name(f"{old.name}{_PARTIAL}")))
    return Checkpoint(target, progress)


def newest(directory: pathlib.Path, warn: Callable[[str], None], *, state_only: bool = False) -> Checkpoint | None:
    """Returns the newest checkpoint whose files are what was written; None if the run never wrote any.

    Args:
      directory: of all checkpoints of a run.
      warn: is told, in one line, of a newer one that is damaged.
      state_only: whether the rows may be damaged.

    Raises:
      CheckpointError: there are checkpoints, and all of them are damaged.
    """
    found = _numbered(directory)
    for path in reversed(found):
        try:
            manifest = json.loads((path / MANIFEST_FILE).read_text())
            if manifest["format"] != FORMAT:
                raise CheckpointError(f"has format {manifest['format']}, and this version reads {FORMAT}")
            # Those of the first version with this format held no checksum of their own.
            if manifest.get("progress_sha256", expected := _digest(manifest["progress"])) != expected:
                raise CheckpointError(f"holds a damaged {MANIFEST_FILE}")
            for name, checksum in manifest["files"].items():
                if not (state_only and name != STATE_FILE) and _checksum(path / name) != checksum:
                    raise CheckpointError(f"holds a damaged {name}")
            return Checkpoint(path, manifest["progress"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = str(error) if isinstance(error, CheckpointError) else f"is damaged ({type(error).__name__})"
            warn(f"checkpoint {path} {reason}; using the one before it")
    if found:
        raise CheckpointError(f"no checkpoint in {directory} can be read")
    return None


def load_newest_state(directory: pathlib.Path) -> tuple[dict, dict[str, Any]]:
    """Returns the trees of a run's newest checkpoint, as `load_state` does, and its progress.

    Raises:
      CheckpointError: no checkpoint can be read.
    """
    damaged: list[str] = []
    found = newest(directory, damaged.append, state_only=True)
    if found is None:
        raise CheckpointError(f"there is no checkpoint in {directory}")
    return load_state(found.directory), found.progress


def save_state(directory: pathlib.Path, tree) -> None:
    """Writes a tree of arrays as `directory/state.msgpack`, replacing an earlier one in one step."""
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / STATE_FILE, serialization.to_bytes(jax.device_get(tree)))


def load_state(directory: pathlib.Path) -> dict:
    """Reads what `save_state` wrote as nested dictionaries of NumPy arrays.

    Raises:
      CheckpointError: there is none that can be read.
    """
    try:
        return serialization.msgpack_restore((directory / STATE_FILE).read_bytes())
    except Exception as error:  # bytes of anyone's may raise anything
        raise CheckpointError(f"{directory / STATE_FILE} cannot be read ({error})") from None


def fit(like, saved):
    """Gives the structure of `like` to what `load_state` returned.

    Args:
      like: a tree of shapes.
      saved: nested dictionaries of arrays.

    Raises:
      CheckpointError: parts, shapes or types differ.
    """
    try:
        tree = serialization.from_state_dict(like, saved)
        differ = [
            f"{jax.tree_util.keystr(path)} {x.dtype}{list(x.shape)} instead of {y.dtype}{list(y.shape)}"
            for (path, y), x in zip(jax.tree_util.tree_leaves_with_path(like), jax.tree.leaves(tree), strict=True)
            if (x.shape, x.dtype) != (y.shape, y.dtype)
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"the saved state has other parts: {error}".splitlines()[0]) from None
    if differ:
        raise CheckpointError(f"the saved state does not fit: it holds {differ[0]}")
    return tree


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that becomes visible under its name when it is complete and on disk."""
    partial = path.with_name(f"{path.name}{_PARTIAL}")
    with partial.open("wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    partial.replace(path)


def params_sha256(params) -> str:
    """Returns a checksum of parameters, by which two runs can be compared."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


class ChunkStream:
    """Chunks of named arrays on disk, written once in order and read back in the same order.

    Raises:
      CheckpointError: a chunk cannot be read back.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        self._count = 0
        directory.mkdir(parents=True, exist_ok=True)

    def append(self, **arrays: np.ndarray) -> None:
        path = self._directory / f"rows-{self._count:05d}.npz"
        partial = path.with_suffix(_PARTIAL)
        with partial.open("wb") as f:
            np.savez(f, **arrays)
            f.flush()
            os.fsync(f.fileno())
        partial.replace(path)
        self._count += 1

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for path in sorted(self._directory.glob("rows-*.npz")):
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    chunk = dict(arrays)
            except Exception as error:  # likewise
                raise CheckpointError(f"{path} cannot be read ({error})") from None
            yield chunk


def _numbered(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the directories of complete checkpoints, oldest first."""
    return sorted(path for path in directory.glob("[0-9]*") if path.name.isdecimal())


def _split(ring: replay.Ring) -> tuple[replay.Rows, dict[str, Any]]:
    """Returns the rows, and all that is small."""
    rest = dict(vars(ring))
    return rest.pop("rows"), rest


@functools.partial(jax.jit, static_argnames="count")
def _read_slots(rows: replay.Rows, begin: jax.Array, count: int) -> replay.Rows:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, begin, count), rows)


@functools.partial(jax.jit, donate_argnames="rows")
def _write_slots(rows: replay.Rows, some: replay.Rows, begin: jax.Array) -> replay.Rows:
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, begin, 0), rows, some)


def _plain(array: np.ndarray) -> np.ndarray:
    """Views what NumPy's format does not know (bfloat16) as integers of the same width."""
    return array.view(np.uint16) if array.dtype == jnp.bfloat16 else array


def _fit_rows(like: replay.Rows, chunk: dict[str, np.ndarray]) -> replay.Rows:
    """Undoes `_plain`; raises CheckpointError unless the rows fit into a ring of rows like `like`."""
    if chunk.keys() != vars(like).keys():
        raise CheckpointError(f"the saved rows do not fit: they hold {', '.join(sorted(chunk))}")
    rows = replay.Rows(**chunk)
    rows = jax.tree.map(lambda x, y: y.view(x.dtype) if x.dtype == jnp.bfloat16 else y, like, rows)
    for name, x in vars(like).items():
        y = getattr(rows, name)
        if (x.shape[1:], x.dtype) != (y.shape[1:], y.dtype) or len(y) > len(x):
            raise CheckpointError(f"the saved rows do not fit: {name} is {y.dtype}{list(y.shape)}")
    return rows


def _digest(progress: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(progress, sort_keys=True).encode()).hexdigest()


def _checksum(path: pathlib.Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sync(directory: pathlib.Path) -> None:
    """Waits until the names in a directory are on disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
