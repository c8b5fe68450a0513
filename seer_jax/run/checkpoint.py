"""Checkpoints of a run: everything that it needs to continue exactly.

A checkpoint is a directory that gets its name when it is complete and on disk; the previous one stays until then. Its
manifest holds a checksum of each file.
"""

import hashlib
import json
import pathlib
import shutil
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax import files, replay

FORMAT = 2
DIRECTORY = "checkpoints"  # in the directory of a run
MANIFEST_FILE = "manifest.json"
KEPT = 2  # checkpoints: if the newest is damaged there is another
_CHUNK_ROWS = 4096  # rows, over all environments, in a file of a checkpoint
_SLOT_ORDER_FORMAT = 1  # its rows are in the order of the ring's slots, those of later formats in the order of time


class CheckpointError(files.DamagedFileError):
    """A checkpoint cannot be used; the message says why."""


class Checkpoint(NamedTuple):
    """A complete checkpoint.

    Attributes:
      directory: holds it.
      progress: counters of the run, as `save` was given them.
      format: version of its layout.
    """

    directory: pathlib.Path
    progress: dict[str, Any]
    format: int = FORMAT

    def restore(self, like: dict[str, Any], spec: replay.RingSpec, row: replay.Rows) -> tuple[Any, replay.Ring]:
        """Puts trees and ring on the device, the ring chunk by chunk.

        Args:
          like: shapes of the trees that were saved.
          spec: static part of the ring.
          row: shapes of the rows of one time.

        Returns:
          The trees and the ring.

        Raises:
          DamagedFileError: something of another shape or type was saved.
        """
        empty = jax.eval_shape(lambda: replay.init(spec, row))
        trees = files.fit_tree(like | {"ring": empty.index}, files.load_tree(self.directory))
        trees = jax.tree.map(jnp.array, trees)  # copies: arrays that NumPy owns cannot be donated
        ring = replay.init(spec, row).replace(index=trees.pop("ring"))
        write = jax.jit(replay.write, static_argnums=0, donate_argnums=1)
        size, oldest = replay.size(spec, ring), replay.oldest(spec, ring)
        begin = 0 if self.format == _SLOT_ORDER_FORMAT else oldest
        found = 0
        for chunk in files.ChunkStream(self.directory):
            rows = _fit_rows(row, chunk, size - found)
            ring = write(spec, ring, np.int32(begin + found), rows)
            found += len(rows.first)
        if found != size:
            raise CheckpointError(f"{self.directory} holds {found} times of rows, not the {size} that were written")
        return trees, ring


def save(
    directory: pathlib.Path,
    number: int,
    *,
    progress: dict[str, Any],
    trees: dict[str, Any],
    spec: replay.RingSpec,
    ring: replay.Ring,
) -> Checkpoint:
    """Writes a checkpoint and removes all but the newest two.

    Args:
      directory: holds all checkpoints of a run.
      number: number of this one; higher is newer.
      progress: counters of the run, for JSON.
      trees: trees of arrays by name.
      spec: static part of the ring.
      ring: the ring, which is read chunk by chunk.

    Raises:
      OSError: it could not be written; earlier ones are intact.
    """
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{number:06d}"
    partial = directory / f"{target.name}{files.PARTIAL}"
    for leftover in directory.glob(f"*{files.PARTIAL}"):
        shutil.rmtree(leftover)
    try:
        files.save_tree(partial, trees | {"ring": ring.index})
        _save_rows(files.ChunkStream(partial), spec, ring)
        checksums = {path.name: files.checksum(path) for path in sorted(partial.iterdir())}
        manifest = {"format": FORMAT, "progress": progress, "progress_sha256": _digest(progress), "files": checksums}
        files.write_file(partial / MANIFEST_FILE, json.dumps(manifest, indent=2).encode())
        files.sync_directory(partial)
        if target.exists():
            shutil.rmtree(target)  # a damaged one, after which the run went on from an earlier one
        partial.rename(target)
        files.sync_directory(directory)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in _numbered(directory)[:-KEPT]:
        shutil.rmtree(old.rename(old.with_name(f"{old.name}{files.PARTIAL}")))
    return Checkpoint(target, progress)


def newest(directory: pathlib.Path, warn: Callable[[str], None], *, state_only: bool = False) -> Checkpoint | None:
    """Returns the newest checkpoint that is undamaged; None if the run never wrote any.

    Args:
      directory: holds all checkpoints of a run.
      warn: receives one line about each newer one that is damaged.
      state_only: whether the rows may be damaged.

    Raises:
      CheckpointError: there are checkpoints, and all of them are damaged.
    """
    found = _numbered(directory)
    for path in reversed(found):
        try:
            return _read(path, state_only=state_only)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = str(error) if isinstance(error, CheckpointError) else f"is damaged ({type(error).__name__})"
            warn(f"checkpoint {path} {reason}; using the one before it")
    if found:
        raise CheckpointError(f"no checkpoint in {directory} can be read")
    return None


def _read(path: pathlib.Path, *, state_only: bool) -> Checkpoint:
    manifest = json.loads((path / MANIFEST_FILE).read_text())
    if manifest["format"] not in (_SLOT_ORDER_FORMAT, FORMAT):
        raise CheckpointError(f"has format {manifest['format']}, and this version reads {FORMAT} and earlier ones")
    # The first manifests of format 1 held no checksum of their own.
    if manifest.get("progress_sha256", expected := _digest(manifest["progress"])) != expected:
        raise CheckpointError(f"holds a damaged {MANIFEST_FILE}")
    for name, checksum in manifest["files"].items():
        if not (state_only and name != files.TREE_FILE) and files.checksum(path / name) != checksum:
            raise CheckpointError(f"holds a damaged {name}")
    return Checkpoint(path, manifest["progress"], manifest["format"])


def load_newest_state(
    directory: pathlib.Path, warn: Callable[[str], None] = warnings.warn
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the trees of a run's newest checkpoint, as `files.load_tree` does, and its progress.

    Args:
      directory: holds all checkpoints of the run.
      warn: receives one line about each newer one that is damaged, if an earlier one can be read.

    Raises:
      DamagedFileError: no checkpoint can be read.
    """
    damaged: list[str] = []
    found = newest(directory, damaged.append, state_only=True)
    if found is None:
        raise CheckpointError(f"there is no checkpoint in {directory}")
    trees = files.load_tree(found.directory)
    for message in damaged:
        warn(message)
    return trees, found.progress


def params_sha256(params: Any) -> str:
    """Returns a checksum of parameters, by which two runs can be compared."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _numbered(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the directories of complete checkpoints, oldest first."""
    return sorted(path for path in directory.glob("[0-9]*") if path.name.isdecimal())


def _save_rows(chunks: files.ChunkStream, spec: replay.RingSpec, ring: replay.Ring) -> None:
    size, oldest = replay.size(spec, ring), replay.oldest(spec, ring)
    chunk_steps = max(1, _CHUNK_ROWS // spec.num_envs)
    for begin in range(0, size, chunk_steps):
        rows, _ = jax.device_get(replay.read(spec, ring, oldest + begin, min(chunk_steps, size - begin)))
        chunks.append(**{name: _as_numpy_format(x) for name, x in vars(rows).items()})


def _as_numpy_format(array: np.ndarray) -> np.ndarray:
    """Views bfloat16, which NumPy's format does not have, as integers of the same width."""
    return array.view(np.uint16) if array.dtype == jnp.bfloat16 else array


def _fit_rows(row: replay.Rows, chunk: dict[str, np.ndarray], room: int) -> replay.Rows:
    """Undoes `_as_numpy_format`; raises CheckpointError unless the rows fit into a ring of rows like `row`."""
    if chunk.keys() != vars(row).keys():
        raise CheckpointError(f"the saved rows do not fit: they hold {', '.join(sorted(chunk))}")
    rows = replay.Rows(**chunk)  # pyright: ignore[reportArgumentType]
    rows = jax.tree.map(lambda x, y: y.view(x.dtype) if x.dtype == jnp.bfloat16 else y, row, rows)
    for name, x in vars(row).items():
        y = getattr(rows, name)
        if (x.shape, x.dtype) != (y.shape[1:], y.dtype) or len(y) > room:
            raise CheckpointError(f"the saved rows do not fit: {name} is {y.dtype}{list(y.shape)}")
    return rows


def _digest(progress: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(progress, sort_keys=True).encode()).hexdigest()
