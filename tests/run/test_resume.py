"""Runs that are interrupted and go on as if they had not been; `test_kill.py` does the same to real processes."""

import io
import json
import pathlib
import pickle
import re
import shutil
import sys

import jax
import numpy as np
import pytest

from seer_jax import evaluate, files, replay, train
from seer_jax.envs import dmc
from seer_jax.run import checkpoint, evaluation, metrics, saved_ring
from seer_jax.run import resolve as resolve_lib
from tests.helpers.runs import (
    compiled_once,
    contents,
    fake_games,
    only_error_line,
    records,
    run_killed_after,
    tiny_config,
    tiny_control_config,
    untimed,
)


@pytest.fixture(autouse=True)
def one_compilation():
    """These runs differ in what interrupts them, not in their programs; `test_kill.py` starts processes."""
    with compiled_once():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run with checkpoints before and after its freeze."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    with fake_games(), compiled_once():
        train.run(resumable_config(), directory)
    return directory


def resumable_config(checkpoint_every=90, **changes):
    replay = {"replay__prioritized": True, "replay__latent_dtype": "bfloat16"}
    return tiny_config(checkpoint_every=checkpoint_every, **replay, **changes)


def test_prioritized_replay_and_half_precision_latents_run_through_the_freeze(whole):
    end = records(whole)[-1]
    assert (end["kind"], end["phase"]) == ("end", "frozen")
    losses = [line["loss"] for line in records(whole) if line["kind"] == "train" and "loss" in line]
    assert len(losses) >= 6
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("kill_after", [[20], [60], [75, 40], [130, 60, 30]])
def test_resumed_run_equals_the_uninterrupted_one(fake_envs, whole, tmp_path, monkeypatch, kill_after):
    """Killed before the first checkpoint, in the full phase, around the freeze, and in the frozen phase."""
    for i, steps in enumerate(kill_after):
        run_killed_after(resumable_config(), tmp_path / "run", steps, monkeypatch, resume=i > 0)
    train.run(resumable_config(), tmp_path / "run", resume=True)
    assert untimed(tmp_path / "run") == untimed(whole)
    (saved, _), (expected, _) = (
        checkpoint.load_newest_state(directory / checkpoint.DIRECTORY) for directory in (tmp_path / "run", whole)
    )
    jax.tree.map(np.testing.assert_array_equal, saved, expected)
    newest = [checkpoint.newest(d / checkpoint.DIRECTORY, pytest.fail).directory for d in (tmp_path / "run", whole)]
    chunks = [list(files.ChunkStream(directory)) for directory in newest]
    assert len(chunks[0]) == len(chunks[1]) > 0
    for chunk, other in zip(*chunks, strict=True):
        jax.tree.map(np.testing.assert_array_equal, chunk, other)


def test_damaged_checkpoint_falls_back_to_the_one_before(fake_envs, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    *_, before, last = sorted((tmp_path / "run" / checkpoint.DIRECTORY).glob("[0-9]*"))
    rows = last / "rows-00000.npz"
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)
    train.run(resumable_config(), tmp_path / "run", resume=True)
    error = capsys.readouterr().err
    assert "damaged rows-00000.npz; using the one before it" in error
    assert before.exists()
    for record, expected in zip(untimed(tmp_path / "run"), untimed(whole), strict=True):
        assert {k: v for k, v in record.items() if v != expected[k]} == {}


def test_run_whose_checkpoints_are_all_damaged_is_not_touched(fake_envs, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    for manifest in (tmp_path / "run" / checkpoint.DIRECTORY).glob("[0-9]*/manifest.json"):
        manifest.write_text("{")
    before = contents(tmp_path / "run")
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint in .* can be read"):
        train.run(resumable_config(), tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before


def test_resuming_with_another_configuration_is_refused(fake_envs, whole):
    config = resumable_config()
    config.agent.learning_rate = 0.5
    with pytest.raises(resolve_lib.ConfigError, match=r"agent\.learning_rate=.* there and 0\.5 here"):
        train.run(config, whole, resume=True)


def test_checkpoint_that_the_disk_has_no_room_for_is_left_out(fake_envs, tmp_path, monkeypatch, capsys):
    save_tree, calls = files.save_tree, []

    def failing(directory, tree):
        calls.append(directory)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save_tree(directory, tree)

    monkeypatch.setattr(files, "save_tree", failing)
    train.run(resumable_config(checkpoint_every=60), tmp_path / "run")
    assert "No space left on device" in capsys.readouterr().err
    numbers = [path.name for path in sorted((tmp_path / "run" / checkpoint.DIRECTORY).iterdir())]
    assert numbers == ["000006", "000007", "freeze"]
    saved = [line["env_steps"] for line in records(tmp_path / "run") if line["kind"] == "checkpoint"]
    assert len(saved) == 6
    assert not [step for step in saved if 120 <= step < 180]


def test_run_whose_last_checkpoint_fails_does_not_end_until_it_is_resumed(
    fake_envs, whole, tmp_path, monkeypatch, capsys
):
    """The disk is full at the last checkpoint alone."""
    save = checkpoint.save

    def failing(*args, progress, **kwargs):
        if progress["env_steps"] >= 400:
            raise OSError(28, "No space left on device")
        return save(*args, progress=progress, **kwargs)

    run_dir = tmp_path / "run"
    monkeypatch.setattr(resolve_lib, "resolve", lambda config, real=resolve_lib.resolve: real(resumable_config()))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", failing)
        assert train.main(["train", "--config=configs/rainbow_atari.py", f"--run_dir={run_dir}"]) == 1
    error = capsys.readouterr().err
    message = r"no checkpoint after 40[01] steps \(No space left on device\); earlier ones are intact; continue with"
    assert re.search(message, error)
    assert records(run_dir)[-1]["kind"] == "eval"
    assert train.main(["train", "--resume", f"--run_dir={run_dir}"]) == 0
    assert untimed(run_dir) == untimed(whole)


def test_disk_without_room_for_the_ring_at_the_end_leaves_the_agent(fake_envs, whole, tmp_path, monkeypatch, capsys):
    """`test_checkpoint.py` has the same with a limit of the operating system."""
    run_dir, save = tmp_path / "run", saved_ring.save

    def failing(directory, ring):
        if directory.name == "000005.partial":
            raise OSError(28, "No space left on device")
        save(directory, ring)

    monkeypatch.setattr(resolve_lib, "resolve", lambda config, real=resolve_lib.resolve: real(resumable_config()))
    with monkeypatch.context() as patch:
        patch.setattr(saved_ring, "save", failing)
        assert train.main(["train", "--config=configs/rainbow_atari.py", f"--run_dir={run_dir}"]) == 1
    error = capsys.readouterr().err
    assert "(No space left on device); the training state alone is saved, for evaluate and seer.init_from;" in error
    assert f"earlier ones are intact; continue with --run_dir={run_dir} --resume" in error
    assert records(run_dir)[-1]["kind"] == "eval"
    (saved, progress), (expected, _) = (
        checkpoint.load_newest_state(directory / checkpoint.DIRECTORY) for directory in (run_dir, whole)
    )
    assert progress["env_steps"] >= 400
    jax.tree.map(np.testing.assert_array_equal, saved["train"], expected["train"])
    assert evaluate.main(["evaluate", f"--run_dir={run_dir}"]) == 0
    assert f"after {progress['env_steps']} agent steps" in capsys.readouterr().out
    assert train.main(["train", "--resume", f"--run_dir={run_dir}"]) == 0
    assert "-state holds no ring, for which the disk had no room; using the one before it" in capsys.readouterr().err
    assert untimed(run_dir) == untimed(whole)


def test_best_state_stays_right_when_a_run_is_killed_and_resumed(fake_envs, tmp_path, monkeypatch, capsys):
    """Killed between its best evaluation and the next checkpoint; resumed, that evaluation is worse, as it may be on
    another machine."""
    run_dir, scores = tmp_path / "run", {100: 2.0, 200: 5.0, 300: 1.0, 400: 2.0}
    config = resumable_config(keep_best=True, eval_every=100)

    def play(act, params, env, key, **arguments):
        return [evaluation.Episodes(np.full(2, scores[env._pool // 10 * 10]), np.ones(2, int), np.zeros(2, bool))]

    def assert_best_is_after(steps):
        assert evaluate.main(["evaluate", f"--run_dir={run_dir}", "--best"]) == 0
        assert f"after {steps}" in capsys.readouterr().out

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "play", play)
        run_killed_after(config, run_dir, 125, monkeypatch)
        assert len([*(run_dir / "best").iterdir()]) == 2
    assert_best_is_after(20)
    scores[200] = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "play", play)
        train.run(config, run_dir, resume=True)
    (kept,) = (run_dir / "best").iterdir()
    assert_best_is_after(10)
    saved, progress = checkpoint.load_newest_state(run_dir / "best")
    assert (int(kept.name), progress["eval_return_mean"]) == (progress["env_steps"], 2.0)
    evaluated = [line for line in records(run_dir) if line["kind"] == "eval"]
    assert progress["env_steps"] == evaluated[0]["env_steps"]
    assert set(saved["train"]["params"]) == {"encoder", "heads", "tail"}


def test_metrics_that_cannot_be_written_end_a_run_that_can_be_resumed(fake_envs, whole, tmp_path, monkeypatch, capsys):
    """The disk fills up when the first training step is to be logged."""
    write = metrics.MetricsWriter.write

    def failing(writer, record):
        if record["kind"] == "train":
            raise metrics.WriteError("metrics.jsonl cannot be written: No space left on device")
        write(writer, record)

    run_dir = tmp_path / "run"
    monkeypatch.setattr(resolve_lib, "resolve", lambda config, real=resolve_lib.resolve: real(resumable_config()))
    with monkeypatch.context() as patch:
        patch.setattr(metrics.MetricsWriter, "write", failing)
        assert train.main(["train", "--config=configs/rainbow_atari.py", f"--run_dir={run_dir}"]) == 1
    assert f"No space left on device; continue with --run_dir={run_dir} --resume" in capsys.readouterr().err
    assert train.main(["train", "--resume", f"--run_dir={run_dir}"]) == 0
    assert untimed(run_dir) == untimed(whole)


def refuse_checkpoints_of(whole, run_dir, config, capsys):
    """Exchanges the configuration of a run; returns what `train --resume` and `evaluate` print, one line each."""
    shutil.copytree(whole, run_dir)
    (run_dir / "config.json").write_text(json.dumps(resolve_lib.resolve(config).to_dict()))
    before, errors = contents(run_dir), []
    for command in (["train", "--resume"], ["evaluate"]):
        assert {"train": train, "evaluate": evaluate}[command[0]].main([*command, f"--run_dir={run_dir}"]) == 2
        errors.append(only_error_line(capsys))
        assert contents(run_dir) == before
    return errors


def test_checkpoints_with_another_encoder_are_refused(fake_envs, whole, tmp_path, capsys):
    config = tiny_config(encoder__name="canonical", replay__allow_more_memory=True)
    for error in refuse_checkpoints_of(whole, tmp_path / "run", config, capsys):
        assert "the saved state" in error
        assert "conv" in error


def test_checkpoints_of_the_other_algorithm_are_refused(fake_envs, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dmc, "require_rendering", lambda *args: None)
    for error in refuse_checkpoints_of(whole, tmp_path / "run", tiny_control_config(), capsys):
        assert "the saved state has other parts" in error


class Bomb:
    """Pickled, it touches a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_run_of_a_stranger_runs_no_code(fake_envs, whole, tmp_path, capsys):
    """Rows, state and configuration that carry code, with checksums that hold."""
    run_dir, proof = tmp_path / "run", tmp_path / "proof"
    shutil.copytree(whole, run_dir)
    newest = checkpoint.newest(run_dir / checkpoint.DIRECTORY, pytest.fail).directory
    bomb = np.array([Bomb(proof)], object)
    pickled = io.BytesIO()
    np.savez(pickled, allow_pickle=True, **dict.fromkeys(replay.Rows.__dataclass_fields__, bomb))
    for name, content in (("rows-00000.npz", pickled.getvalue()), (files.TREE_FILE, pickle.dumps(Bomb(proof)))):
        before = (newest / name).read_bytes()
        (newest / name).write_bytes(content)
        sign(newest)
        assert train.main(["train", "--resume", f"--run_dir={run_dir}"]) == 2
        assert "cannot be read" in capsys.readouterr().err
        (newest / name).write_bytes(before)
    config = json.loads((run_dir / "config.json").read_text())
    config["encoder"]["name"] = "haiku:tests.fixtures.hostile:encoder"
    (run_dir / "config.json").write_text(json.dumps(config))
    for command in (train.main, evaluate.main):
        assert command(["command", f"--run_dir={run_dir}"] + ["--resume"] * (command is train.main)) == 2
        assert "if you trust it" in capsys.readouterr().err
    assert not proof.exists()
    assert "tests.fixtures.hostile" not in sys.modules
    pickle.loads(pickle.dumps(Bomb(proof)))
    assert proof.exists()  # unpickling the bomb runs its code


def sign(directory):
    """Gives a checkpoint that was tampered with a manifest whose checksums hold."""
    manifest = json.loads((directory / checkpoint.MANIFEST_FILE).read_text())
    manifest["files"] = {name: files.checksum(directory / name) for name in manifest["files"]}
    (directory / checkpoint.MANIFEST_FILE).write_text(json.dumps(manifest))
