"""Runs that are stopped during long work, or whose environments fail, and go on."""

import signal

import numpy as np
import pytest

from seer_jax import files, status, train
from seer_jax.envs import timestep
from seer_jax.run import checkpoint
from seer_jax.run import resolve as resolve_lib
from seer_jax.run.loop import RunStopped
from seer_jax.run.stepper import Stepper
from seer_jax.seer import handover
from tests.helpers.fake_env import FakeEnv
from tests.helpers.runs import compiled_once, fake_games, records, tiny_config, untimed


@pytest.fixture(autouse=True)
def shared_programs(monkeypatch):
    monkeypatch.setattr(handover, "_CHUNK_ROWS", 64)  # several chunks
    with compiled_once():
        yield


def config():
    """Checkpoints come at the steps of evaluations and of the freeze, so that a stop there costs no step."""
    return tiny_config(total_steps=300, eval_every=100, checkpoint_every=100, replay__prioritized=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of a run that nobody stops, and the activities that it showed."""
    directory, shown, steps = tmp_path_factory.mktemp("whole") / "run", [], []
    real_shown, vector_step = status._STATUS._shown, Stepper.vector_step

    def step(stepper, steps_of_seeds, **arguments):
        steps.append((stepper._seeds[0].progress.updates, status._STATUS._lines()))
        vector_step(stepper, steps_of_seeds, **arguments)

    with fake_games(), compiled_once(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(status._STATUS, "_shown", lambda text: shown.append(text) or real_shown(text))
        patch.setattr(Stepper, "vector_step", step)
        train.run(config(), directory)
    return directory, [text() if callable(text) else text for text in shown], steps


def test_all_work_is_shown(whole):
    _, shown, steps = whole
    for start in (
        "preparing the run",
        "compiling the programs of the full phase",
        "compiling the programs of the frozen phase",
        "training: ",
        "evaluating: ",
        "freezing the encoder: writing the frames to the disk, 100%",
        "freezing the encoder: encoding the frames, 100%",
        "writing the checkpoint after 10",
    ):
        assert any(text.startswith(start) for text in shown), (start, shown)
    for updates, (line,) in steps:
        assert line.startswith("training: " if updates else "filling the replay: ")
    assert {updates > 0 for updates, _ in steps} == {True, False}


def without_checkpoints(directory):
    """Returns the records apart from those of checkpoints: a stop writes one more."""
    return [record for record in untimed(directory) if record["kind"] != "checkpoint"]


def in_evaluation(monkeypatch, stops, at_episode):
    """Asks for a stop in the middle of an evaluation, the `at_episode`-th."""
    reset, step, started = FakeEnv.reset, FakeEnv.step, []

    def counted_reset(env):
        started.extend([] if env._training else [1])
        return reset(env)

    def stopping_step(env, action):
        if not env._training and len(started) == at_episode:
            stops.append(signal.SIGTERM)
        return step(env, action)

    monkeypatch.setattr(FakeEnv, "reset", counted_reset)
    monkeypatch.setattr(FakeEnv, "step", stopping_step)


def before_the_frames_are_freed(monkeypatch, stops):
    append = files.ChunkStream.append

    def stopping(stream, **arrays):
        if stream._directory.name == "freeze":
            stops.append(signal.SIGTERM)
        append(stream, **arrays)

    monkeypatch.setattr(files.ChunkStream, "append", stopping)


def after_the_frames_were_freed(monkeypatch, stops):
    load = handover._encode_chunk
    monkeypatch.setattr(handover, "_encode_chunk", lambda *args: stops.append(signal.SIGTERM) or load(*args))


@pytest.mark.parametrize(
    ("ask", "phase", "env_steps"),
    [
        (lambda *args: in_evaluation(*args, at_episode=1), "full", 100),
        (lambda *args: in_evaluation(*args, at_episode=3), "frozen", 300),
        (before_the_frames_are_freed, "full", 200),
        (after_the_frames_were_freed, "full", 200),
    ],
)
def test_run_stopped_in_an_evaluation_or_the_handover_equals_the_uninterrupted_one(
    fake_envs, whole, tmp_path, monkeypatch, ask, phase, env_steps
):
    stops, directory = [], tmp_path / "run"
    with monkeypatch.context() as patch:
        ask(patch, stops)
        with pytest.raises(RunStopped) as stopped:  # which holds what was on the stack
            train.run(config(), directory, stop=lambda: bool(stops))
    assert stopped.value
    assert status._STATUS._lines() == []
    assert len(stops) == 1  # nothing went on after it
    assert records(directory)[-1]["kind"] == "checkpoint"
    saved = checkpoint.newest(directory / checkpoint.DIRECTORY, pytest.fail).progress
    assert (saved["phase"], saved["env_steps"]) == (phase, pytest.approx(env_steps, abs=1))
    train.run(config(), directory, resume=True)
    assert without_checkpoints(directory) == without_checkpoints(whole[0])


def failing(monkeypatch, at, error):
    """Lets the training environments fail once, at the `at`-th step."""
    step, steps = FakeEnv.step, []

    def failing_step(env, action):
        steps.append(env._training)
        if sum(steps) == at and env._training:
            raise error
        return step(env, action)

    monkeypatch.setattr(FakeEnv, "step", failing_step)


@pytest.mark.parametrize("at", [1, 70, 120])
def test_environment_that_raises_ends_the_run_with_its_traceback_and_a_checkpoint(
    fake_envs, tmp_path, monkeypatch, capsys, at
):
    """At its first step, in the full phase, and in the frozen phase."""
    directory = tmp_path / "run"
    monkeypatch.setattr(resolve_lib, "resolve", lambda _, real=resolve_lib.resolve: real(config()))
    with monkeypatch.context() as patch:
        failing(patch, at, ZeroDivisionError("the simulator crashed"))
        assert train.main(["train", "--config=configs/rainbow_atari.py", f"--run_dir={directory}"]) == 1
    error = capsys.readouterr().err
    assert "in failing_step" in error
    assert "ZeroDivisionError: the simulator crashed\n" in error
    assert error.endswith(
        "train: an environment raised ZeroDivisionError: the simulator crashed;"
        f" continue with --run_dir={directory} --resume\n"
    )
    saved = checkpoint.newest(directory / checkpoint.DIRECTORY, pytest.fail).progress
    assert saved["env_steps"] == records(directory)[-1]["env_steps"]
    assert all(env.closed for env in fake_envs)
    assert train.main(["train", "--resume", f"--run_dir={directory}"]) == 0
    assert records(directory)[-1]["kind"] == "end"
    newest = checkpoint.newest(directory / checkpoint.DIRECTORY, pytest.fail).directory
    chunks = list(files.ChunkStream(newest))
    first, last = (np.concatenate([chunk[name] for chunk in chunks]) for name in ("first", "last"))
    np.testing.assert_array_equal(last[:-1], first[1:])  # an episode begins after each that ends, and nowhere else


def test_environments_that_cannot_be_started_anew_leave_a_checkpoint(fake_envs, tmp_path, monkeypatch):
    directory, reset, resets = tmp_path / "run", FakeEnv.reset, []

    def failing_reset(env):
        resets.append(env._training)
        if sum(resets) == 2 and env._training:
            raise RuntimeError("no simulator is free")
        return reset(env)

    with monkeypatch.context() as patch:
        patch.setattr(FakeEnv, "reset", failing_reset)
        with pytest.raises(timestep.EnvironmentFailedError, match="RuntimeError: no simulator is free"):
            train.run(config(), directory)
    assert records(directory)[-1]["kind"] == "checkpoint"
    end = train.run(config(), directory, resume=True)
    assert end["env_steps"] >= 300


def test_invalid_timestep_leaves_a_checkpoint_of_the_step_before(fake_envs, tmp_path, monkeypatch):
    step = FakeEnv.step

    def invalid(env, action):
        sent = step(env, action)
        return sent._replace(reward=sent.reward * np.nan) if env.steps[0] == 45 and env._training else sent

    with monkeypatch.context() as patch:
        patch.setattr(FakeEnv, "step", invalid)
        with pytest.raises(timestep.InvalidTimeStepError, match="reward"):
            train.run(config(), tmp_path / "run")
    (chunk,) = files.ChunkStream(checkpoint.newest(tmp_path / "run" / "checkpoints", pytest.fail).directory)
    assert len(chunk["reward"]) == 45
    assert np.isfinite(chunk["reward"]).all()
    assert chunk["last"][-1].all()
