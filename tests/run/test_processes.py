"""Real processes that train: their directories, their locks and the signals that end them."""

import fcntl
import os
import pathlib
import signal
import sys
import termios

import pytest

from seer_jax import cli, evaluate, output, train
from seer_jax.run import lock, run_dir
from tests.helpers.processes import Process, train_game

ENDLESS = {"total_steps": 10_000_000}


@pytest.fixture
def train_here(tmp_path):
    """Returns a function that starts processes on one directory, whose name has a space; they end with the test."""
    started = []

    def start(*arguments, **options):
        log = tmp_path / f"{len(started)}.log"
        started.append(train_game(log, "--run_dir=a run", *arguments, cwd=tmp_path, **ENDLESS, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def test_directory_of_a_run_belongs_to_one_process_until_it_ends(tmp_path, train_here):
    directory = tmp_path / "a run"

    def lines():
        return (directory / "metrics.jsonl").read_text().count('"kind": "train"')

    def wait_for_lines(process, number):
        process.wait_until(lambda: (directory / "metrics.jsonl").exists() and lines() >= number)

    first = train_here()
    wait_for_lines(first, 2)

    for refused in (train_here(), train_here("--resume")):
        assert refused.wait() == 2
        (line,) = refused.output.splitlines()
        assert line.startswith(
            f"train: run_dir={directory} is in use by pid {first.pid} on {os.uname().nodename} since "
        )
    first.kill()
    assert (directory / lock.LOCK_FILE).exists()

    resumed = train_here("--resume")
    resumed.wait_until(lambda: "\nphase" in resumed.output)
    resumed.send(signal.SIGHUP)
    assert resumed.wait() == 128 + signal.SIGHUP
    assert resumed.output.splitlines()[-1] == "train: stopped; continue with --run_dir='a run' --resume"
    assert run_dir.read_records(directory / "metrics.jsonl")[-1]["kind"] == "checkpoint"
    assert not (directory / lock.LOCK_FILE).exists()

    whole = (directory / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "metrics.jsonl").write_bytes(b"".join(whole[:-2]) + whole[-2][:-20])
    ignoring = train_here("--resume", ignore_hangup=True)
    ignoring.wait_until(lambda: "\nphase" in ignoring.output)
    assert "metrics.jsonl lost lines that it had at the checkpoint" in ignoring.output
    assert (directory / "metrics.jsonl").read_bytes().splitlines(keepends=True)[: len(whole) - 2] == whole[:-2]
    before = lines()
    ignoring.send(signal.SIGHUP)
    wait_for_lines(ignoring, before + 2)
    directory.rename(tmp_path / "moved")
    assert ignoring.wait() == 1
    assert ignoring.output.splitlines()[-1].startswith(f"train: run_dir={directory} is gone: it was removed, moved")
    assert not directory.exists()


def test_several_seeds_stop_at_a_signal_and_go_on_together(tmp_path, train_here):
    """While they train, the directory of each seed is locked, too."""
    directory, arguments = tmp_path / "a run", ("--config.num_seeds=2", "--config.seed=3")
    first = train_here(*arguments)
    first.wait_until(lambda: "seed 4  phase" in first.output)
    refused = Process(
        train.main, (["train", "--run_dir=a run/seed-4", "--resume"],), tmp_path / "refused", cwd=tmp_path
    )
    assert refused.wait() == 2
    assert f"run_dir={directory / 'seed-4'} is in use by pid {first.pid} on " in refused.output
    first.send(signal.SIGINT)
    assert first.wait() == 128 + signal.SIGINT
    assert first.output.splitlines()[-1] == "train: stopped; continue with --run_dir='a run' --resume"

    def last_line(seed):
        return run_dir.read_records(directory / f"seed-{seed}" / "metrics.jsonl")[-1]

    stopped_at = {seed: last_line(seed)["env_steps"] for seed in (3, 4)}
    assert [last_line(seed)["kind"] for seed in (3, 4)] == ["checkpoint"] * 2
    assert not list(directory.rglob(lock.LOCK_FILE))

    steps = f"--config.total_steps={max(stopped_at.values()) + 20}"
    together = Process(train.main, (["train", "--run_dir=a run", "--resume", steps],), tmp_path / "on", cwd=tmp_path)
    assert together.wait() == 0, together.output
    assert [last_line(seed)["kind"] for seed in (3, 4)] == ["end"] * 2


def test_processes_that_start_at_once_without_run_dir_train_in_directories_of_their_own(tmp_path):
    seeds = [0, 0, 0, 1]
    started = [train_game(tmp_path / f"{i}.log", cwd=tmp_path, seed=seed) for i, seed in enumerate(seeds)]
    assert [process.wait() for process in started] == [0, 0, 0, 0], [process.output for process in started]
    printed = []
    for process, seed in zip(started, seeds, strict=True):
        # JAX warns if a process reads a compiled program that another one is still writing, and compiles it.
        first, last = (line for line in process.output.splitlines() if line.startswith("run directory: "))
        assert first == last
        directory = pathlib.Path(first.removeprefix("run directory: "))
        assert directory.name.startswith(f"krull-rainbow-s{seed}-")
        assert run_dir.read_records(directory / "metrics.jsonl")[-1]["kind"] == "end"
        assert not (directory / lock.LOCK_FILE).exists()
        printed.append(directory)
    assert sorted(printed) == sorted((tmp_path / "runs").iterdir())


def test_process_without_room_for_its_last_ring_leaves_an_agent(tmp_path, capsys):
    """A file may hold 2 MB: the training state takes less, the ring's 600 frames more."""
    changes = {"total_steps": 300, "replay__capacity": 600, "env__image_size": 84, "env__crop_size": 84}
    process = train_game(tmp_path / "log", "--run_dir=run", cwd=tmp_path, file_bytes=2_000_000, **changes)
    assert process.wait() == 1
    assert process.output.splitlines()[-1].startswith(
        "train: no checkpoint after 300 steps (File too large); the training state alone is saved, for evaluate and"
    )
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert saved.name.endswith("-state")
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path / 'run'}"]) == 0
    assert "after 300 agent steps" in capsys.readouterr().out


def _print_through_a_hangup(terminal, printing):
    """Prints on a terminal of its own until a signal, and then some more."""
    os.setsid()
    descriptor = os.open(terminal, os.O_RDWR)
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
    os.dup2(descriptor, 1)
    with output.lossy(), cli.signals() as received:
        printing.touch()
        while not received:
            print("before", flush=True)
        for _ in range(100):
            print("after", flush=True)
        signal.raise_signal(signal.SIGHUP)
    print("everything is done", file=sys.stderr)
    return 128 + received[0]


def test_process_whose_terminal_is_closed_ends_as_after_a_signal(tmp_path):
    ours, its = os.openpty()
    printing = tmp_path / "printing"
    arguments = (os.ttyname(its), printing)
    process = Process(_print_through_a_hangup, arguments, tmp_path / "log", cwd=tmp_path)
    process.wait_until(printing.exists)
    os.close(its)
    os.read(ours, 1000)
    os.close(ours)
    try:
        assert process.wait() == 128 + signal.SIGHUP, process.output
        first, second = process.output.splitlines()
        assert first == "the standard output cannot be written (Input/output error); the rest is lost"
        assert second == "everything is done"
    finally:
        process.kill()
