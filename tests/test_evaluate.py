"""The command that evaluates a run; `run/test_evaluation.py` has how episodes are played."""

import json
import re
import shutil

import imageio.v3 as iio
import jax
import numpy as np
import pytest

from seer_jax import envs, evaluate
from seer_jax.run import evaluation, policy
from tests.helpers.fake_env import FakeEnv
from tests.helpers.runs import only_error_line, tiny_config, tiny_control_config, write_run, write_untrained_run


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    """The directory of a run of a real game, and its parameters."""
    directory = tmp_path_factory.mktemp("real") / "run"
    return directory, write_untrained_run(directory, tiny_config(env__task="krull", env__max_episode_steps=60))


def test_command_prints_a_table_and_writes_a_video_without_a_fork(real_run, capsys, recwarn):
    directory, _ = real_run
    assert evaluate.main(["evaluate", f"--run_dir={directory}", "--episodes=3", "--video"]) == 0
    out = capsys.readouterr().out
    assert "krull" in out
    assert "no human-normalized score: 3 of 3 episodes were truncated after fewer than 27,000 agent steps" in out
    (path,) = (directory / "videos").iterdir()
    assert re.fullmatch(r"000000001-\d{8}-\d{6}\.mp4", path.name)
    assert str(path) in out
    video = iio.imread(path)
    assert video.shape[1:] == (168, 168, 3)
    assert 2 <= len(video) <= 62
    assert video.std() > 1
    assert not [warning for warning in recwarn if "fork" in str(warning.message)]


def test_later_video_does_not_replace_an_earlier_one(real_run, monkeypatch):
    directory, _ = real_run
    before = set((directory / "videos").iterdir()) if (directory / "videos").exists() else set()
    monkeypatch.setattr(evaluate.time, "strftime", lambda form: f"later-{form == '%Y%m%d-%H%M%S'}")
    assert evaluate.main(["evaluate", f"--run_dir={directory}", "--episodes=1", "--video"]) == 0
    assert set((directory / "videos").iterdir()) == before | {directory / "videos" / "000000001-later-True.mp4"}


def test_fallback_to_an_earlier_checkpoint_is_printed(real_run, tmp_path, capsys):
    shutil.copytree(real_run[0], tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints / "000001", checkpoints / "000002")
    (checkpoints / "000002" / "state.msgpack").write_bytes(b"damaged")
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path / 'run'}", "--episodes=1"]) == 0
    damaged = f"checkpoint {checkpoints / '000002'} holds a damaged state.msgpack; using the one before it"
    assert only_error_line(capsys) == f"evaluate: {damaged}\n"
    with pytest.warns(UserWarning, match="using the one before it"):
        policy.load_policy(tmp_path / "run")


def test_environment_that_raises_is_shown_with_its_traceback(fake_envs, tmp_path, monkeypatch, capsys):
    write_untrained_run(tmp_path / "run", tiny_config())
    monkeypatch.setattr(FakeEnv, "step", lambda env, action: 1 / 0)
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path / 'run'}"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("evaluate: an environment raised ZeroDivisionError: division by zero\n")


def test_command_plays_the_saved_parameters_in_as_many_episodes_as_the_run(real_run, monkeypatch):
    directory, saved = real_run
    seen = []

    def play(act, params, env, key, **kwargs):
        seen.append((params, env.num_envs))
        return [evaluation.Episodes(np.zeros(2), np.ones(2, int), np.zeros(2, bool))]

    monkeypatch.setattr(evaluation, "play", play)
    assert evaluate.main(["evaluate", f"--run_dir={directory}"]) == 0
    ((params, episodes),) = seen
    jax.tree.map(np.testing.assert_array_equal, params, saved)
    assert episodes == 2


@pytest.mark.skipif(not envs.HAS_EGL, reason="this machine has no EGL to render with")
def test_control_task_is_evaluated_with_a_video_in_colour(tmp_path, capsys):
    write_untrained_run(tmp_path / "run", tiny_control_config())
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path / 'run'}", "--episodes=1", "--video"]) == 0
    assert "human-normalized" not in capsys.readouterr().out
    (path,) = (tmp_path / "run" / "videos").iterdir()
    video = iio.imread(path)
    assert video.shape == (20, 136, 136, 3)
    assert np.ptp(video.astype(int), axis=-1).max() > 30


@pytest.mark.parametrize("damaged", ["config.json", "checkpoints/000001/state.msgpack"])
def test_damaged_run_is_refused_in_one_line(tmp_path, capsys, damaged):
    write_run(tmp_path, tiny_config())
    whole = (tmp_path / damaged).read_bytes()
    (tmp_path / damaged).write_bytes(whole[: len(whole) // 2])
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path}"]) == 2
    error = only_error_line(capsys)
    assert "damaged" in error or "can be read" in error


def test_parameters_of_another_configuration_are_refused_in_one_line(fake_envs, tmp_path, capsys):
    write_run(tmp_path, tiny_config(), params={"heads": {}})
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path}"]) == 2
    assert "has no parameters for its configuration: the saved state has other parts" in only_error_line(capsys)


def exchange(run_dir, section, name, value):
    config = json.loads((run_dir / "config.json").read_text())
    config[section][name] = value
    (run_dir / "config.json").write_text(json.dumps(config))


def test_run_cannot_make_evaluate_import_code(tmp_path, capsys):
    write_run(tmp_path, tiny_config())
    exchange(tmp_path, "encoder", "name", "haiku:nothing.at.all:encoder")
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path}"]) == 2
    assert "if you trust it" in only_error_line(capsys)
    for name, message in (("haiku:nothing.at.all:encoder", "cannot be imported"), ("haiku:other:f", "if you trust it")):
        trusted = ["--config=configs/rainbow_atari.py", f"--config.encoder.name={name}"]
        assert evaluate.main(["evaluate", f"--run_dir={tmp_path}", *trusted]) == 2
        assert message in only_error_line(capsys)


def test_run_of_an_unknown_agent_needs_its_configuration_file(tmp_path, capsys):
    write_run(tmp_path, tiny_config())
    exchange(tmp_path, "agent", "name", "mine")
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path}"]) == 2
    assert "imports code of yours, agent.name=mine; if you trust it" in only_error_line(capsys)
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path}", "--config=configs/rainbow_atari.py"]) == 2
    assert "agent.name='mine' is unknown" in only_error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--run_dir=DIR is missing"),
        (["--run_dir=nowhere"], "not the directory of a run"),
        (["--run_dir=nowhere", "--episodes=0"], "episodes"),
        (["--run_dir=nowhere", "--record"], "record"),
    ],
)
def test_bad_command_ends_in_one_line_and_exit_code_2(arguments, message, capsys):
    assert evaluate.main(["evaluate", *arguments]) == 2
    assert message in only_error_line(capsys)
