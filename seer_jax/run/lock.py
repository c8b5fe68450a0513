"""Exclusive use of the directory of a run: one process at a time trains in it, and notices when it is gone."""

import contextlib
import errno
import fcntl
import functools
import os
import pathlib
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator

from seer_jax.fields import ConfigError

LOCK_FILE = "seer_jax.lock"  # in the directory of a run, while a process trains in it
_ATTEMPTS = 100  # other processes may remove files and empty directories at the same moment
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems that cannot lock
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)  # of files that are not there any more


class RunDirectoryLostError(Exception):
    """The directory of a run was removed, moved or replaced while the run was training."""


@contextlib.contextmanager
def hold(directory: pathlib.Path, warn: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Locks the directory of a run, which is made if it does not exist, until the context is left.

    The kernel frees the lock of a process that was killed. On leaving, the lock file is removed, and so is a directory
    that was made here and is empty.

    Args:
      directory: of a run, or of one that will start.
      warn: receives one line if the file system cannot lock. The directory is used all the same: of two processes the
        later one takes it, and the earlier one stops at its next record.

    Yields:
      A function that raises RunDirectoryLostError unless the directory is still the one that was locked.

    Raises:
      ConfigError: another process has locked it, or it cannot be written.
    """
    made: list[pathlib.Path] = []
    try:
        made = make(directory)
        path = directory / LOCK_FILE
        descriptor, owner = _lock(path, warn)
    except OSError as error:
        remove_empty(made)
        raise unwritable(directory, error) from None
    except ConfigError:
        remove_empty(made)
        raise
    try:
        yield functools.partial(_check, path, owner)
    finally:
        if _is_owned(path, owner):  # what is there otherwise belongs to others
            with contextlib.suppress(OSError):
                path.unlink()
            remove_empty(made)
        os.close(descriptor)


def make(directory: pathlib.Path, *, exist_ok: bool = True) -> list[pathlib.Path]:
    """Makes a directory and its parents; returns those that did not exist before, the innermost first.

    Args:
      directory: to make.
      exist_ok: whether it may exist.

    Raises:
      OSError: it cannot be made.
    """
    made_here = not exist_ok or not directory.exists()
    missing = [directory] * made_here + [path for path in directory.parents if not path.exists()]
    for attempt in range(_ATTEMPTS):
        try:
            directory.mkdir(parents=True, exist_ok=exist_ok)
            break
        except FileNotFoundError:  # another process called `remove_empty` on a parent
            if attempt == _ATTEMPTS - 1:
                raise
    return missing


def remove_empty(directories: Iterable[pathlib.Path]) -> None:
    """Removes directories, the innermost first, up to the first one that is not empty."""
    with contextlib.suppress(OSError):
        for directory in directories:
            directory.rmdir()


def unwritable(directory: pathlib.Path, error: OSError) -> ConfigError:
    """Returns the error about a directory that cannot be used for a run, for the reason that `error` has."""
    if os.path.exists(directory) and not os.path.isdir(directory):  # unlike those of pathlib, these raise nothing
        return ConfigError(f"run_dir={directory} is not a directory; name another")
    return ConfigError(f"run_dir={directory} cannot be written: {error.strerror}; name another")


def _lock(path: pathlib.Path, warn: Callable[[str], None]) -> tuple[int, bytes]:
    """Returns the descriptor of the locked file, and the content that was written to it."""
    for _ in range(_ATTEMPTS):
        # Not through a link: directories of runs are not trusted.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _flock(descriptor, path.parent, warn)
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            owner = f"pid {os.getpid()} on {socket.gethostname()} since {since} UTC\n{uuid.uuid4().hex}\n".encode()
            _write(descriptor, path, owner)
        except BaseException:
            os.close(descriptor)
            raise
        if _is_owned(path, owner):
            return descriptor, owner
        os.close(descriptor)  # the process that held this file removed it after it was opened here
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _flock(descriptor: int, directory: pathlib.Path, warn: Callable[[str], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 500, 0).decode(errors="replace").partition("\n")[0]
        if not holder or not holder.isprintable():
            holder = "another process"
        raise ConfigError(
            f"run_dir={directory} is in use by {holder}; wait until it has ended, or name another directory"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warn(f"the file system of {directory} cannot lock files ({error.strerror}); start no second process on it")


def _write(descriptor: int, path: pathlib.Path, owner: bytes) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, owner, 0)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _is_owned(path: pathlib.Path, owner: bytes) -> bool:
    """Returns whether the lock file has this content. Numbers of inodes are used again and differ on some systems."""
    try:
        return path.read_bytes() == owner
    except OSError as error:
        return error.errno not in _LOST  # any other failure says nothing about the directory


def _check(path: pathlib.Path, owner: bytes) -> None:
    if not _is_owned(path, owner):
        raise RunDirectoryLostError(
            f"run_dir={path.parent} is gone: it was removed, moved or replaced during the run, and nothing more is"
            " written; if it was moved, continue with its new name and --resume"
        )
