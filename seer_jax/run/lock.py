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
from collections.abc import Callable, Iterator

from seer_jax.fields import ConfigError

LOCK_FILE = "lock"  # in the directory of a run, while a process trains in it
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
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(made(directory))
            path = directory / LOCK_FILE
            descriptor, owner = _lock(path, warn)
        except OSError as error:
            raise unwritable(directory, error) from None
        stack.callback(_release, descriptor, path, owner)
        yield functools.partial(_check, path, owner)


@contextlib.contextmanager
def made(directory: pathlib.Path, *, exist_ok: bool = True) -> Iterator[None]:
    """Makes a directory and its parents; on leaving, removes those that did not exist before and are empty.

    Args:
      directory: to make.
      exist_ok: whether it may exist.

    Raises:
      OSError: it cannot be made.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for attempt in range(_ATTEMPTS):
        try:
            directory.mkdir(parents=True, exist_ok=exist_ok)
            break
        except FileNotFoundError:  # another process removed an empty parent, as is done below
            if attempt == _ATTEMPTS - 1:
                raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            for path in missing:
                path.rmdir()


def unwritable(directory: pathlib.Path, error: OSError) -> ConfigError:
    """Returns the error about a directory that cannot be used for a run, for the reason that `error` has."""
    if directory.exists() and not directory.is_dir():
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
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, owner, 0)
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


def _release(descriptor: int, path: pathlib.Path, owner: bytes) -> None:
    if _is_owned(path, owner):
        with contextlib.suppress(OSError):
            path.unlink()
    os.close(descriptor)
