"""Directories of runs that version 0.1.0 wrote are evaluated, reported and transferred from, and not resumed."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from experiments.report import records
from seer_jax import evaluate, train
from seer_jax.envs import dmc, registry
from seer_jax.envs.registry import SUITES
from seer_jax.run import assembly, checkpoint, run_dir, transfer
from seer_jax.run.resolve import resolve
from tests.helpers.runs import contents, only_error_line

RUNS = pathlib.Path(__file__).parents[1] / "fixtures" / "runs_of_0.1.0"
TRUSTED = ["--config=configs/curl_dmc.py", "--config.encoder.name=haiku:tests.helpers.tiny_encoder:encoder"]


@pytest.fixture(autouse=True)
def no_rendering(fake_envs, monkeypatch):
    monkeypatch.setattr(dmc, "require_rendering", lambda *args: None)


@pytest.mark.parametrize("name", ["rainbow", "curl"])
def test_interrupted_run_is_refused_in_one_line_and_not_touched(tmp_path, capsys, name):
    shutil.copytree(RUNS / name, tmp_path / "run")
    before = contents(tmp_path / "run")
    config = resolve(run_dir.read_config(tmp_path / "run"))
    with pytest.raises(checkpoint.CheckpointError, match=r"was made by seer_jax 0\.2\.0 or earlier, whose updates"):
        train.run(config, tmp_path / "run", resume=True)
    if name == "rainbow":
        assert train.main(["train", f"--run_dir={tmp_path / 'run'}", "--resume"]) == 2
        error = only_error_line(capsys)
        assert "checkpoints/000003 was made by seer_jax 0.2.0 or earlier" in error
        assert "continue the run with that version, or start a new one" in error
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(("name", "arguments", "env_steps"), [("rainbow", [], 180), ("curl", TRUSTED, 80)])
def test_run_is_evaluated(capsys, name, arguments, env_steps):
    assert evaluate.main(["evaluate", f"--run_dir={RUNS / name}", *arguments]) == 0
    assert f"after {env_steps} agent steps" in capsys.readouterr().out


def test_run_is_evaluated_on_images_of_its_version():
    config = resolve(run_dir.read_config(RUNS / "rainbow"))
    frames = {}
    for resize in (config.env.resize, "area", "linear"):
        section = dataclasses.replace(config.env, resize=resize)
        env = SUITES["atari"].make_env(section, seeds=[0], training=False)
        frames.setdefault(resize, []).append(env.reset().frame)
        env.close()
    np.testing.assert_array_equal(*frames["area"])
    assert not np.array_equal(frames["area"][0], frames["linear"][0])


def test_names_of_fields_of_version_0_1_0_are_those_of_the_fixture():
    agent = json.loads((RUNS / "curl" / "config.json").read_text())["agent"]
    assert (agent["actor_update_every"], agent["target_update_every"]) == (1, 2)
    today = resolve(run_dir.read_config(RUNS / "curl")).agent
    assert (today.updates_per_actor_update, today.updates_per_target_update) == (1, 2)


def test_run_is_reported():
    read = records.read(RUNS / "rainbow", "an arm")
    assert read.end is not None
    assert (read.end["phase"], read.seed) == ("frozen", 0)
    assert len(read.of_kind("eval")) >= 2


def test_encoder_of_a_run_is_transferred():
    config = resolve(run_dir.read_config(RUNS / "rainbow"))
    transfer.check(config, RUNS / "rainbow")
    action_spec = registry.make_env(config, training=True).action_spec
    state = jax.eval_shape(assembly.assemble(config, action_spec).agent.init, jax.random.PRNGKey(0))
    encoder = transfer.load_encoder(RUNS / "rainbow", state.params)
    saved, _ = checkpoint.load_newest_state(RUNS / "rainbow" / checkpoint.DIRECTORY)
    jax.tree.map(np.testing.assert_array_equal, encoder["encoder"], saved["train"]["params"]["encoder"])
