"""Checkpoints of a run: everything that it needs to continue exactly.

A checkpoint is a directory that gets its name when it is complete and on disk; the previous one stays until then. Its
manifest holds a checksum of each file. Where the disk has no space for the ring, a checkpoint holds the trees alone
(`NUMBER-state`): enough to act and to evaluate, not enough to continue.
"""

import contextlib
import errno
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
from seer_jax.run import saved_ring
from seer_jax.seer.placed_ring import SeedRing

FORMAT = 3
DIRECTORY = "checkpoints"  # in the directory of a run
MANIFEST_FILE = "manifest.json"
_EARLIER_FORMATS = (1, 2)  # their trees can be read, their runs cannot be continued
_STATE_ONLY = "-state"  # suffix of a checkpoint without a ring
_RING = "ring"  # name of the ring's counters among the trees


class CheckpointError(files.DamagedFileError):
    """A checkpoint cannot be used; the message says why."""


class EarlierFormatError(CheckpointError):
    """A checkpoint of an earlier version, whose run this version cannot continue."""


class StateOnlyError(OSError):
    """The disk had no room for a checkpoint; its trees alone were saved."""


class Checkpoint(NamedTuple):
    """A checkpoint.

    Attributes:
      directory: holds it.
      progress: counters of the run, as `save` was given them.
    """

    directory: pathlib.Path
    progress: dict[str, Any]

    def restore(self, like: dict[str, Any], ring: SeedRing, row: replay.Rows) -> Any:
        """Puts trees on the device and fills a ring, chunk by chunk.

        Args:
          like: shapes of the trees that were saved.
          ring: an empty ring; of another capacity than the saved one if that had overwritten nothing.
          row: shapes of the rows of one time.

        Returns:
          The trees.

        Raises:
          DamagedFileError: something of another shape or type was saved.
        """
        trees = files.fit_tree(like | {_RING: ring.counters()}, files.load_tree(self.directory))
        saved_ring.restore(self.directory, ring, row, trees.pop(_RING))
        return jax.tree.map(jnp.array, trees)  # copies: arrays that NumPy owns cannot be donated


def save(
    directory: pathlib.Path,
    number: int,
    *,
    progress: dict[str, Any],
    trees: dict[str, Any],
    ring: SeedRing,
    kept: int | None = 2,
) -> Checkpoint:
    """Writes a checkpoint and removes all but the newest ones.

    A checkpoint whose progress holds `stays` is not removed. If a new one does not fit on the disk, its trees alone are
    written. Once they are safe, earlier checkpoints are removed until there is space, the oldest first and the newest
    never.

    Args:
      directory: holds all checkpoints of a run; it is made if it does not exist, in a parent that does.
      number: number of this one; higher is newer.
      progress: counters of the run, for JSON.
      trees: trees of arrays by name.
      ring: the ring, which is read chunk by chunk.
      kept: how many checkpoints stay, this one included; None removes none, for `remove_old` to do it later.

    Raises:
      StateOnlyError: there is room for the trees only; they are written, and the newest earlier checkpoint is intact.
      OSError: nothing could be written; earlier ones are intact.
    """

    def write(partial: pathlib.Path) -> None:
        files.save_tree(partial, trees | {_RING: ring.counters()})
        saved_ring.save(partial, ring)

    target = directory / f"{number:06d}"
    try:
        saved = _save(target, progress, write)
    except OSError as error:
        save_state(target.with_name(f"{target.name}{_STATE_ONLY}"), progress=progress, trees=trees)
        saved = _save_in_place_of(_removable(directory, 1), target, progress, write)
        if saved is None:
            raise StateOnlyError(error.errno, error.strerror) from None
    if kept is not None:
        remove_old(directory, number, kept=kept)
    return saved


def link(saved: Checkpoint, directory: pathlib.Path) -> Checkpoint:
    """Makes a checkpoint among those in `directory` that holds the files of another one, and `saved.progress`.

    Raises:
      OSError: it could not be made.
    """
    checksums = json.loads((saved.directory / MANIFEST_FILE).read_text())["files"]

    def write(partial: pathlib.Path) -> None:
        files.link_tree(saved.directory, partial, without=MANIFEST_FILE)
        for name, checksum in checksums.items():
            if files.checksum(partial / name) != checksum:
                raise OSError(errno.EIO, f"{name} of {saved.directory} was damaged meanwhile")

    return _save(directory / saved.directory.name, saved.progress, write)


def remove_old(directory: pathlib.Path, number: int, *, kept: int) -> None:
    """Removes all but the newest checkpoints, and those without a ring up to the one of this number.

    Those that `stays` of their progress names are not removed.
    """
    for old in [*_removable(directory, kept), *(path for path in _state_only(directory) if _number(path) <= number)]:
        remove(old)


def save_state(target: pathlib.Path, *, progress: dict[str, Any], trees: dict[str, Any]) -> Checkpoint:
    """Writes a checkpoint without a ring into the directory `target`; raises OSError if it cannot be written."""
    return _save(target, progress, lambda partial: files.save_tree(partial, trees))


def _save_in_place_of(
    removable: list[pathlib.Path], target: pathlib.Path, progress: dict[str, Any], write: Callable[[pathlib.Path], None]
) -> Checkpoint | None:
    """Removes checkpoints one by one until another one fits; returns it, or None if it never does."""
    for old in removable:
        remove(old)
        with contextlib.suppress(OSError):
            return _save(target, progress, write)
    return None


def _save(target: pathlib.Path, progress: dict[str, Any], write: Callable[[pathlib.Path], None]) -> Checkpoint:
    """Has `write` fill a directory, adds the manifest and gives the directory its name."""
    directory = target.parent
    directory.mkdir(exist_ok=True)
    partial = directory / f"{target.name}{files.PARTIAL}"
    for leftover in directory.glob(f"*{files.PARTIAL}"):
        shutil.rmtree(leftover)
    try:
        write(partial)
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
    return Checkpoint(target, progress)


def newest(directory: pathlib.Path, warn: Callable[[str], None], *, state_only: bool = False) -> Checkpoint | None:
    """Returns the newest checkpoint that is undamaged; None if the run never wrote any.

    Args:
      directory: holds all checkpoints of a run.
      warn: receives one line about each newer one that is damaged or holds no ring.
      state_only: whether the trees are enough: the ring may be missing, damaged or of an earlier format.

    Raises:
      CheckpointError: there are checkpoints, and none of them can be used.
    """
    complete, trees_only = numbered(directory), _state_only(directory)
    if trees_only and not complete and not state_only:
        raise CheckpointError(
            f"{max(trees_only, key=_number)} holds no ring, for which the disk had no room, and there is no earlier"
            " checkpoint to resume from; evaluate and seer.init_from can use it"
        )
    found = sorted([*trees_only, *complete], key=_number)
    for path in reversed(found):
        try:
            return _read(path, state_only=state_only)
        except EarlierFormatError:
            raise
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = str(error) if isinstance(error, CheckpointError) else f"is damaged ({type(error).__name__})"
            warn(f"checkpoint {path} {reason}; using the one before it")
    if found:
        raise CheckpointError(f"no checkpoint in {directory} can be read")
    return None


def numbers(directory: pathlib.Path) -> list[int]:
    """Returns the numbers of complete checkpoints, in order."""
    return [_number(path) for path in numbered(directory)]


def steps(directory: pathlib.Path, number: int) -> int | None:
    """Returns the agent steps of the checkpoint of this number; None if it is damaged."""
    try:
        return json.loads((directory / f"{number:06d}" / MANIFEST_FILE).read_text())["progress"]["env_steps"]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remove_newer(directory: pathlib.Path, number: int) -> None:
    """Removes the complete checkpoints that are newer than the one of this number."""
    for path in numbered(directory):
        if _number(path) > number:
            remove(path)


def read(directory: pathlib.Path, number: int) -> Checkpoint:
    """Returns the checkpoint of this number among those in `directory`; raises CheckpointError if it cannot be used."""
    path = directory / f"{number:06d}"
    try:
        return _read(path, state_only=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error) if isinstance(error, CheckpointError) else f"is damaged ({type(error).__name__})"
        raise CheckpointError(f"checkpoint {path} {reason}") from None


def _read(path: pathlib.Path, *, state_only: bool) -> Checkpoint:
    manifest = json.loads((path / MANIFEST_FILE).read_text())
    if manifest["format"] not in (*_EARLIER_FORMATS, FORMAT):
        raise CheckpointError(f"has format {manifest['format']}, and this version reads {FORMAT} and earlier ones")
    if manifest["format"] in _EARLIER_FORMATS and not state_only:
        raise EarlierFormatError(
            f"{path} was made by seer_jax 0.2.0 or earlier, whose updates and sampling differ; continue the run with"
            " that version, or start a new one"
        )
    if path.name.endswith(_STATE_ONLY) and not state_only:
        raise CheckpointError("holds no ring, for which the disk had no room")
    # The first manifests of format 1 held no checksum of their own.
    if manifest.get("progress_sha256", expected := _digest(manifest["progress"])) != expected:
        raise CheckpointError(f"holds a damaged {MANIFEST_FILE}")
    for name, checksum in manifest["files"].items():
        if not (state_only and name != files.TREE_FILE) and files.checksum(path / name) != checksum:
            raise CheckpointError(f"holds a damaged {name}")
    return Checkpoint(path, manifest["progress"])


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


def numbered(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the directories of complete checkpoints, oldest first."""
    return sorted((path for path in directory.glob("[0-9]*") if path.name.isdecimal()), key=_number)


def _removable(directory: pathlib.Path, kept: int) -> list[pathlib.Path]:
    """Returns all complete checkpoints, oldest first, but the newest ones and those that stay."""
    return [path for path in numbered(directory)[:-kept] if not _stays(path)]


def _stays(path: pathlib.Path) -> bool:
    try:
        return bool(json.loads((path / MANIFEST_FILE).read_text())["progress"].get("stays", False))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False  # nothing can begin with a damaged one


def remove(path: pathlib.Path) -> None:
    """Removes a checkpoint; one that is removed in part does not have its name any more."""
    shutil.rmtree(path.rename(path.with_name(f"{path.name}{files.PARTIAL}")))


def _state_only(directory: pathlib.Path) -> list[pathlib.Path]:
    found = directory.glob(f"[0-9]*{_STATE_ONLY}")
    return [path for path in found if path.name.removesuffix(_STATE_ONLY).isdecimal()]


def _number(path: pathlib.Path) -> int:
    return int(path.name.removesuffix(_STATE_ONLY))


def _digest(progress: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(progress, sort_keys=True).encode()).hexdigest()
