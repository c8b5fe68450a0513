"""Runs that go on with other values than they began with, and runs whose checkpoints are gone."""

import shutil

import pytest

from seer_jax import files, train
from seer_jax.fields import ConfigError
from seer_jax.run import checkpoint, continuation, run_dir
from seer_jax.run.resolve import resolve
from tests.helpers.runs import (
    assert_runs_equal,
    compiled_once,
    contents,
    fake_games,
    only_error_line,
    records,
    run_killed_after,
    tiny_config,
    untimed,
)


@pytest.fixture(autouse=True)
def one_compilation():
    with compiled_once():
        yield


def config_of(total_steps, **changes):
    """A run whose checkpoints and evaluations come together, every 60 steps; it freezes at 200."""
    cadences = {"checkpoint_every": 60, "eval_every": 60, "replay__prioritized": True}
    return tiny_config(total_steps=total_steps, **cadences | changes)


def run_in(tmp_path_factory, total_steps):
    directory = tmp_path_factory.mktemp("runs") / "run"
    with fake_games(), compiled_once():
        train.run(config_of(total_steps), directory)
    return directory


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A run that was to have 360 steps from the start."""
    return run_in(tmp_path_factory, 360)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The same run with 240 steps, finished."""
    return run_in(tmp_path_factory, 240)


@pytest.mark.parametrize("steps", [80, 128])
def test_run_that_was_killed_and_goes_on_longer_equals_one_that_was_to_be_longer_from_the_start(
    fake_envs, long, tmp_path, monkeypatch, steps
):
    """It is killed in the full phase and in the frozen phase."""
    run_killed_after(config_of(240), tmp_path / "run", steps, monkeypatch)
    train.run(config_of(360), tmp_path / "run", resume=True)
    assert_runs_equal(tmp_path / "run", long)


def test_finished_run_that_goes_on_longer_equals_one_that_was_to_be_longer_from_the_start(
    fake_envs, short, long, tmp_path, capsys
):
    shutil.copytree(short, tmp_path / "run")
    command = ["train", f"--run_dir={tmp_path / 'run'}", "--resume", "--config.total_steps=360"]
    assert train.main(command) == 0
    assert "train: goes on with total_steps=360 (was 240)" in capsys.readouterr().err
    assert_runs_equal(tmp_path / "run", long)
    assert [line["kind"] for line in records(tmp_path / "run")].count("end") == 1
    assert resolve(run_dir.read_config(tmp_path / "run")) == resolve(config_of(360))
    changed = {"env_steps": 240, "fields": {"total_steps": [240, 360]}, "arguments": ["--config.total_steps=360"]}
    assert run_dir.read_manifest(tmp_path / "run")["changes"] == [changed]
    assert train.main(command) == 0  # again, as a scheduler may repeat it
    assert run_dir.read_manifest(tmp_path / "run")["changes"] == [changed]


def test_cadences_of_a_run_that_goes_on_may_change(fake_envs, short, tmp_path):
    shutil.copytree(short, tmp_path / "run")
    changes = {"log_every": 10, "eval_every": 30, "eval_episodes": 1, "checkpoint_every": 40, "params_every": 20}
    train.run(config_of(300, **changes, checkpoints_kept=1), tmp_path / "run", resume=True)
    later = [line for line in records(tmp_path / "run") if line["env_steps"] > 241]
    steps = {kind: [line["env_steps"] // 10 for line in later if line["kind"] == kind] for kind in ("train", "eval")}
    assert steps == {"train": [25, 26, 27, 28, 29, 30], "eval": [27, 30]}
    assert all(len(line["eval_returns"]) == 1 for line in later if line["kind"] == "eval")
    assert len([*(tmp_path / "run" / "params").iterdir()]) == 3
    assert len(checkpoint.numbered(tmp_path / "run" / checkpoint.DIRECTORY)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.total_steps=240", "--config.agent.hidden=4"],
            "agent.hidden=8 there and 4 here); a run that goes on",
        ),
        (["--config.seed=1"], "seed=0 there and 1 here"),
        (["--config.seer.init_from=elsewhere"], "seer.init_from=None there and elsewhere here"),
        (["--config.total_steps=230"], "total_steps=230 is not past the 240 agent steps that the run in"),
        (["--config.total_steps=201"], "seer.freeze_step=200 is past total_steps=201"),
        (["--config.total_stps=300"], "--config.total_stps: there is no field total_stps; did you mean total_steps?"),
        (["--config.total_steps=many"], "total_steps"),
        (["--config.log_every=0"], "log_every=0 is out of range"),
    ],
)
def test_change_that_a_run_cannot_go_on_with_is_refused_in_one_line(fake_envs, short, capsys, arguments, message):
    before = contents(short)
    assert train.main(["train", f"--run_dir={short}", "--resume", *arguments]) == 2
    assert message in only_error_line(capsys)
    assert contents(short) == before


def test_fields_without_a_configuration_to_change_are_refused_in_one_line(tmp_path, capsys):
    assert train.main(["train", f"--run_dir={tmp_path}", "--config.total_steps=9"]) == 2
    assert "--config=FILE is missing" in only_error_line(capsys)


def test_change_that_was_interrupted_is_noted_once(tmp_path, monkeypatch):
    """The process is killed between the manifest and the configuration, and started again."""
    (tmp_path / "run").mkdir()
    run_dir.start(resolve(config_of(240)), tmp_path / "run", [])
    write_file = files.write_file

    def change():
        config = resolve(config_of(360))
        changed = continuation.changes(config, tmp_path / "run")
        continuation.record_changes(config, tmp_path / "run", changed, env_steps=60, arguments=[])

    def failing(path, content):
        if path.name == run_dir.CONFIG_FILE:
            raise KeyboardInterrupt
        write_file(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", failing)
        with pytest.raises(KeyboardInterrupt):
            change()
    assert resolve(run_dir.read_config(tmp_path / "run")) == resolve(config_of(240))
    change()
    assert resolve(run_dir.read_config(tmp_path / "run")) == resolve(config_of(360))
    assert [entry["fields"] for entry in run_dir.read_manifest(tmp_path / "run")["changes"]] == [
        {"total_steps": [240, 360]}
    ]


def test_change_that_cannot_be_written_leaves_a_run_that_goes_on_as_it_was(fake_envs, short, tmp_path, monkeypatch):
    shutil.copytree(short, tmp_path / "run")

    def failing(path, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", failing)
        with pytest.raises(ConfigError, match="cannot be written: No space left on device; resume it as it was"):
            train.run(config_of(360), tmp_path / "run", resume=True)
    train.run(config_of(240), tmp_path / "run", resume=True)
    assert untimed(tmp_path / "run") == untimed(short)


@pytest.mark.parametrize("finished", [True, False])
def test_run_whose_checkpoints_are_gone_is_not_touched(fake_envs, short, tmp_path, monkeypatch, capsys, finished):
    directory = tmp_path / "run"
    if finished:
        shutil.copytree(short, directory)
    else:
        run_killed_after(config_of(240), directory, 80, monkeypatch)
    shutil.rmtree(directory / checkpoint.DIRECTORY)
    before = contents(directory)
    capsys.readouterr()
    assert train.main(["train", f"--run_dir={directory}", "--resume"]) == 2
    assert "recorded checkpoints, and checkpoints/ holds none of them" in only_error_line(capsys)
    assert contents(directory) == before


def test_run_that_wrote_no_checkpoint_starts_anew_with_a_message(fake_envs, short, tmp_path, monkeypatch, capsys):
    run_killed_after(config_of(240), tmp_path / "run", 20, monkeypatch)
    lines = len(records(tmp_path / "run"))
    assert lines >= 3
    train.run(config_of(240), tmp_path / "run", resume=True)
    message = f"no checkpoint was written yet: the run starts anew, without the {lines} lines of its metrics"
    assert capsys.readouterr().err.count(message) == 1
    assert untimed(tmp_path / "run") == untimed(short)


def test_metrics_with_a_torn_last_line_are_noticed_and_never_glued_to(fake_envs, short, tmp_path, monkeypatch, capsys):
    """The file lost its end, and with it half of the last line before the checkpoint."""
    directory = tmp_path / "run"
    run_killed_after(config_of(240), directory, 80, monkeypatch)
    size = checkpoint.newest(directory / checkpoint.DIRECTORY, pytest.fail).progress["metrics_bytes"]
    content = (directory / "metrics.jsonl").read_bytes()[:size]
    lines = content.splitlines(keepends=True)
    (directory / "metrics.jsonl").write_bytes(content[: -len(lines[-1]) // 2])
    train.run(config_of(240), directory, resume=True)
    kept = len(b"".join(lines[:-1]))
    assert f"lost lines that it had at the checkpoint: {kept:,} of {size:,} bytes" in capsys.readouterr().err
    expected = untimed(short)
    assert untimed(directory) == expected[: len(lines) - 1] + expected[len(lines) :]
