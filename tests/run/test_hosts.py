"""Runs of two processes on this machine, which stand for two hosts, against the same runs in one process."""

import json
import shutil

import pytest

from seer_jax.run import checkpoint
from tests.helpers import host_runs
from tests.helpers.runs import tiny_config, untimed

SHORT = {
    "encoder__name": "data_efficient",
    "total_steps": 72,
    "learn_start": 20,
    "log_every": 20,
    "seer__freeze_step": 40,
    "seer__signal_every": 8,
    "eval_every": 36,
    "checkpoint_every": 24,
    "replay_ratio": 0.25,
    "seer__replay_ratio": 0.5,
    "agent__reset_heads_every": 3,
    "replay__prioritized": True,
}
SEEDS = {"seed": 3, "num_seeds": 2, "mesh__seed": 2, "keep_best": True, "params_every": 30, **SHORT}
DATA = {"num_envs": 4, "mesh__data": 2, **SHORT}
REFUSED = {
    "second has another configuration": (
        DATA,
        "ConfigError: process 1 has --resume=True, and process 0 has False; start all processes with the same"
        " arguments",
    ),
    "second sees another directory": (
        DATA,
        "ConfigError: process 1 does not see run_dir={run_dir} as process 0 does; name a directory on a file system"
        " that all hosts share",
    ),
    None: (
        SEEDS | {"mesh__seed": 1},
        "ConfigError: mesh.seed=1 and mesh.data=1 need 1 devices, which 2 processes cannot have the same number of;"
        " choose a multiple of 2",
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with runs of two processes in it, which were not interrupted or ended early, and what was printed."""
    directory = tmp_path_factory.mktemp("together")
    jobs = [
        {"config": tiny_config(**config), "run_dir": directory / name, "event": event}
        for name, config, event in [
            ("seeds", SEEDS, None),
            ("data", DATA, None),
            ("in-memory", DATA, "snapshot fails"),
            ("stopped", SEEDS, "stop of second in handover"),
            ("failed", SEEDS, "environment of second fails"),
            ("unwritable", SEEDS, "record of first fails"),
        ]
    ]
    jobs.append({"config": tiny_config(**SEEDS), "run_dir": directory / "stopped", "resume": True})
    for number, (event, (config, _)) in enumerate(REFUSED.items()):
        jobs.append({"config": tiny_config(**config), "run_dir": directory / f"refused-{number}", "event": event})
    codes, outputs = host_runs.wait(host_runs.start(jobs, directory))
    assert codes == [0, 0], outputs
    outcomes = [[line.split(": ", 1)[1] for line in output.splitlines() if line[:4] == "job "] for output in outputs]
    return directory, *outcomes


@pytest.fixture(scope="module")
def killed(tmp_path_factory, runs):
    """Two copies of a run whose second process was killed; its programs are compiled already."""
    directory = tmp_path_factory.mktemp("killed")
    arguments = [*arguments_of(SEEDS), "--run_dir=run"]
    codes, outputs = host_runs.wait(host_runs.start_commands(arguments, directory, event="kill second"))
    assert codes == [1, -9], outputs
    (line,) = [line for line in outputs[0].splitlines() if "does not answer" in line]
    assert line.startswith("train: another host does not answer any more (")
    assert line.endswith("; continue on all hosts with --run_dir=run --resume")
    shutil.copytree(directory / "run", directory / "copy")
    return directory


@pytest.fixture(scope="module")
def expected(tmp_path_factory, killed):
    """A directory with the same runs in one process, which also resumed the killed one."""
    directory = tmp_path_factory.mktemp("alone")
    jobs = [
        {"config": tiny_config(**config), "run_dir": directory / name}
        for name, config in [("seeds", SEEDS), ("data", DATA)]
    ]
    jobs.append({"config": tiny_config(**SEEDS), "run_dir": killed / "copy", "resume": True})
    (code,), (output,) = host_runs.wait(host_runs.start(jobs, directory, devices=2, num_processes=1))
    assert (code, output.count(": done")) == (0, len(jobs)), output
    return directory


def arguments_of(changes):
    """Returns the command line of a configuration."""
    flat = {name: value for name, value in tiny_config(**changes).items() if not hasattr(value, "items")}
    sections = {
        f"{section}.{name}": value
        for section, fields in tiny_config(**changes).items()
        if hasattr(fields, "items")
        for name, value in fields.items()
    }
    return [
        "--config=rainbow_atari:quick",
        *(f"--config.{name}={value}" for name, value in (flat | sections).items() if value is not None),
    ]


def assert_same_run(found, expected):
    """Both directories hold the same records, times aside, and the same checkpoints."""
    assert untimed(found) == untimed(expected)
    for directory in (checkpoint.DIRECTORY, "best", "params"):
        files = [
            sorted(path.relative_to(run) for path in (run / directory).rglob("*") if path.is_file())
            for run in (found, expected)
        ]
        assert files[0] == files[1]
        for name in files[0]:
            contents = [(run / name).read_bytes() for run in (found, expected)]
            if name.name == checkpoint.MANIFEST_FILE:  # it holds times
                contents = [json.loads(content)["files"] for content in contents]
            assert contents[0] == contents[1], name


@pytest.mark.parametrize("run", ["seeds/seed-3", "seeds/seed-4", "data"])
def test_run_on_two_hosts_equals_the_run_on_two_devices_of_one(runs, expected, run):
    """`tests/mesh` compares the latter with runs alone."""
    assert_same_run(runs[0] / run, expected / run)


def test_run_that_a_killed_host_ended_goes_on_with_two_hosts_and_with_one(runs, killed, expected):
    arguments = ["--run_dir=run", "--resume"]
    codes, outputs = host_runs.wait(host_runs.start_commands(arguments, killed))
    assert codes == [0, 0], outputs
    assert not any("starts anew" in output for output in outputs)  # there was a checkpoint
    for seed in ("seed-3", "seed-4"):
        assert_same_run(killed / "run" / seed, runs[0] / "seeds" / seed)
        assert_same_run(killed / "copy" / seed, runs[0] / "seeds" / seed)


def test_signal_to_one_host_stops_all_after_a_checkpoint(tmp_path, killed):
    arguments = [*arguments_of(SEEDS), "--run_dir=run"]
    codes, outputs = host_runs.wait(host_runs.start_commands(arguments, tmp_path, event="terminate second"))
    assert codes == [143, 143], outputs
    for output in outputs:
        assert output.splitlines()[-1] == "train: stopped; continue with --run_dir=run --resume"
    for seed in ("seed-3", "seed-4"):
        last = untimed(tmp_path / "run" / seed)[-1]
        saved = checkpoint.newest(tmp_path / "run" / seed / checkpoint.DIRECTORY, pytest.fail)
        assert (last["kind"], last["env_steps"]) == ("checkpoint", saved.progress["env_steps"])
        assert 0 < last["env_steps"] < SHORT["total_steps"]


def test_only_the_first_host_prints_what_the_run_does(killed):
    first, second = ((killed / f"{i}.log").read_text() for i in range(2))
    assert "phase full" in first
    assert [line for line in second.splitlines() if not line.startswith("[Gloo]")] == []


def test_freeze_without_a_snapshot_makes_the_same_latents_on_two_hosts(runs):
    directory, *outcomes = runs
    assert [each[2] for each in outcomes] == ["done"] * 2
    saved = [
        json.loads((path / checkpoint.MANIFEST_FILE).read_text())["files"]
        for run in ("data", "in-memory")
        for path in checkpoint.numbered(directory / run / checkpoint.DIRECTORY)[-1:]
    ]
    assert saved[0] == saved[1]


def test_stop_of_one_host_in_the_handover_stops_all_and_the_run_goes_on_as_without_it(runs):
    directory, *outcomes = runs
    assert [[each[3].split(":")[0], each[6]] for each in outcomes] == [["RunStopped", "done"]] * 2
    assert [record["kind"] for record in untimed(directory / "stopped" / "seed-3")][-1] == "end"


def test_failed_environment_of_one_host_ends_all_after_a_checkpoint(runs):
    directory, *outcomes = runs
    message = "EnvironmentFailedError: an environment raised RuntimeError: no game"
    assert [each[4] for each in outcomes] == [message] * 2
    assert untimed(directory / "failed" / "seed-3")[-1]["kind"] == "checkpoint"


def test_record_that_the_first_host_cannot_write_ends_all(runs):
    _, *outcomes = runs
    assert [each[5] for each in outcomes] == ["WriteError: no room for a record"] * 2


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=str)
def test_what_hosts_cannot_do_together_is_refused_by_all_in_one_line(runs, number):
    directory, *outcomes = runs
    (_, message), run_dir = [*REFUSED.values()][number], directory / f"refused-{number}"
    assert [each[7 + number] for each in outcomes] == [message.format(run_dir=run_dir)] * 2
    assert not run_dir.exists()
