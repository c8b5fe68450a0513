"""The lock of a run directory, and runs whose directory is removed; `test_processes.py` has real processes."""

import errno
import fcntl
import os
import pathlib
import shutil
from concurrent import futures

import numpy as np
import pytest

from seer_jax import files, replay, train
from seer_jax.fields import ConfigError
from seer_jax.run import lock, metrics, needs, run_dir
from seer_jax.run.lock import RunDirectoryLostError
from seer_jax.run.resolve import resolve
from tests.helpers.fake_env import FakeEnv
from tests.helpers.runs import compiled_once, records, tiny_config, untimed


def fail(warning):
    raise AssertionError(warning)


def test_directory_is_locked_until_the_context_is_left(tmp_path):
    with lock.hold(tmp_path, fail) as check:
        check()
        with pytest.raises(ConfigError, match=rf"in use by pid {os.getpid()} on \S+ since 2\d\d\d-.* UTC; wait until"):
            lock.hold(tmp_path, fail).__enter__()
    with lock.hold(tmp_path, fail):
        pass
    assert list(tmp_path.iterdir()) == []


def test_only_empty_directories_that_were_made_here_are_removed(tmp_path):
    with lock.hold(tmp_path / "a" / "b", fail):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with lock.hold(tmp_path / "a" / "b", fail):
        (tmp_path / "a" / "notes.txt").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    with lock.hold(tmp_path / "empty", fail):
        pass
    assert (tmp_path / "empty").is_dir()


def test_lock_file_that_a_killed_process_left_does_not_count(tmp_path):
    (tmp_path / lock.LOCK_FILE).write_text("pid 1 on elsewhere since 2020-01-01 00:00:00 UTC\n" * 20)
    with lock.hold(tmp_path, fail) as check:
        check()
        run_dir.start(resolve(tiny_config()), tmp_path, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "manifest.json"]


@pytest.mark.parametrize("change", ["removed", "moved", "made anew", "made anew and locked", "lock removed"])
def test_directory_that_is_not_there_any_more_is_noticed_and_left_alone(tmp_path, change):
    directory, other = tmp_path / "run", None
    with lock.hold(directory, fail) as check:
        if change == "moved":
            directory.rename(tmp_path / "moved")
        elif change == "lock removed":
            (directory / lock.LOCK_FILE).unlink()
        else:
            shutil.rmtree(directory)
        if "made anew" in change:
            directory.mkdir()
        if "locked" in change:
            other = lock.hold(directory, fail)
            check_other = other.__enter__()
        with pytest.raises(RunDirectoryLostError, match=f"run_dir={directory} is gone: it was removed, moved"):
            check()
    if other is not None:
        check_other()
        other.__exit__(None, None, None)
    assert directory.exists() == (change not in ("removed", "moved"))


def test_failure_to_read_the_lock_is_no_loss_of_the_directory(tmp_path, monkeypatch):
    with lock.hold(tmp_path, fail) as check, monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "read_bytes", raises(OSError(errno.EIO, "")))
        check()


def raises(error):
    def function(*args, **kwargs):
        raise error

    return function


def test_file_system_without_locks_is_used_with_a_warning_by_the_later_of_two(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", raises(OSError(errno.ENOLCK, "No locks available")))
    warnings = []
    with lock.hold(tmp_path, warnings.append) as check:
        (warning,) = warnings
        assert (
            warning
            == f"the file system of {tmp_path} cannot lock files (No locks available); start no second process on it"
        )
        check()
        with lock.hold(tmp_path, warnings.append) as check_later:
            with pytest.raises(RunDirectoryLostError):
                check()
            check_later()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.touch(), "is not a directory; name another"),
        (lambda path: path.symlink_to("/dev/full"), "is not a directory; name another"),
        (lambda path: path.symlink_to("nowhere"), "cannot be written: File exists; name another"),
        (lambda path: path.symlink_to(path.name), "cannot be written: File exists; name another"),
        (lambda path: path.symlink_to("/proc/self"), "cannot be written: "),
        (lambda path: path.symlink_to("/proc/self/nothing"), "cannot be written: "),
        (lambda path: (path / lock.LOCK_FILE).mkdir(parents=True), "cannot be written: Is a directory; name another"),
        (lambda path: path.mkdir() or os.mkfifo(path / lock.LOCK_FILE), "cannot be written: "),
        (
            lambda path: path.mkdir() or (path / lock.LOCK_FILE).symlink_to("/etc/hostname"),
            "cannot be written: Too many levels",
        ),
    ],
)
def test_directory_that_cannot_be_locked_is_refused_in_one_line(tmp_path, make, message):
    make(tmp_path / "run")
    with pytest.raises(ConfigError) as caught, lock.hold(tmp_path / "run", fail):
        pass
    assert str(caught.value).startswith(f"run_dir={tmp_path / 'run'} ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "number"), [("open", errno.EROFS), ("open", errno.EACCES), ("pwrite", errno.ENOSPC)]
)
def test_read_only_or_full_file_system_is_refused_and_nothing_stays(tmp_path, monkeypatch, function, number):
    monkeypatch.setattr(os, function, raises(OSError(number, os.strerror(number))))
    with pytest.raises(ConfigError, match=f"cannot be written: {os.strerror(number)}"):
        lock.hold(tmp_path / "runs" / "run", fail).__enter__()
    assert not (tmp_path / "runs").exists()


def test_holder_that_cannot_be_printed_is_not(tmp_path):
    with lock.hold(tmp_path, fail):
        (tmp_path / lock.LOCK_FILE).write_bytes(b"\x1b[2J\xff\n")
        with pytest.raises(ConfigError, match=r"is in use by another process; wait"):
            lock.hold(tmp_path, fail).__enter__()


def test_directories_without_a_name_are_distinct_and_vanish_if_they_stay_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_dir.time, "strftime", lambda _: "20260102-030405")
    config = resolve(tiny_config(seed=3))

    def use_new(keep):
        with run_dir.new(config) as directory:
            if keep:
                (directory / "notes.txt").touch()
        return directory

    use_new(False)
    assert list(tmp_path.iterdir()) == []
    with futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(use_new, [False] * 100))
        assert list(tmp_path.glob("runs/*")) == []
        kept = list(threads.map(use_new, [True] * 40))
    name = "krull-rainbow-s3-20260102-030405"
    assert {path.name for path in kept} == {name, *(f"{name}-{i}" for i in range(2, 41))}


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.symlink_to("nowhere")])
def test_directory_without_a_name_is_refused_if_there_is_no_place_for_it(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"^run_dir=runs/krull.* cannot be written: .*; name another$"):
        run_dir.new(resolve(tiny_config())).__enter__()


@pytest.fixture(scope="module", autouse=True)
def one_compilation():
    with compiled_once():
        yield


def lost_config():
    return tiny_config(eval_every=100, checkpoint_every=50, params_every=60, log_every=40)


# Where a run writes, or will write next.
CALLS = {
    "step": (FakeEnv, "step"),
    "record": (metrics.MetricsWriter, "write"),
    "tree": (files, "save_tree"),
    "file": (files, "write_file"),
    "rows": (replay, "read"),
    "chunk": (np, "savez"),
    "rename": (pathlib.Path, "rename"),
    "plan": (needs, "sizes"),
    "metrics": (metrics.MetricsWriter, "__init__"),
}


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("step", 1),
        ("record", 1),
        ("tree", 1),
        ("tree", 2),
        ("file", 2),
        ("chunk", 1),
        ("rename", 1),
        ("plan", 1),
        ("metrics", 1),
    ],
)
def test_run_whose_directory_is_removed_ends_with_an_error_and_makes_nothing_anew(
    fake_envs, tmp_path, monkeypatch, capsys, call, number
):
    directory, calls = tmp_path / "runs" / "run", []
    owner, name = CALLS[call]
    real = getattr(owner, name)

    def remove_at_a_call(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            shutil.rmtree(directory)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, remove_at_a_call)
    with pytest.raises(RunDirectoryLostError, match="is gone"):
        train.run(lost_config(), directory)
    assert not directory.exists()
    assert "train: no" not in capsys.readouterr().err
    assert all(env.closed for env in fake_envs)


def test_run_may_follow_another_of_the_same_process_and_continue_it(fake_envs, tmp_path, monkeypatch):
    """Also if the working directory changes during the first, whose directory is given by a relative path."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")

    def train_for_a_while(directory, **arguments):
        calls = iter(range(50))
        monkeypatch.chdir(tmp_path)
        with pytest.raises(train.RunStopped):
            train.run(lost_config(), directory, stop=lambda: next(calls) == 40, **arguments)
        return untimed(tmp_path / directory)

    first = train_for_a_while("link", receivers=[lambda record: os.chdir("/")])
    train_for_a_while("other")
    second = train_for_a_while("there", resume=True)
    assert second[: len(first)] == first
    assert second[-1]["env_steps"] > first[-1]["env_steps"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "other", "there"]


def test_directory_in_use_is_refused_by_a_second_run_and_by_a_resumed_one(fake_envs, tmp_path):
    refused = []

    def start_another(record):
        for resume in (False, True):
            with pytest.raises(ConfigError, match="in use by pid") as caught:
                train.run(lost_config(), tmp_path / "run", resume=resume)
            refused.append(caught.value)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train.run(lost_config(), tmp_path / "run", receivers=[start_another])
    assert len(refused) == 2
    assert [record["kind"] for record in records(tmp_path / "run")] == ["episode"]
