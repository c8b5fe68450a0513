"""Directories of runs that version 0.1.0 wrote are resumed and evaluated."""

import json
import math
import os
import pathlib
import shutil

import jaxlib
import pytest

from seer_jax import evaluate, train
from seer_jax.envs import dmc
from seer_jax.run import checkpoint, run_dir
from seer_jax.run.resolve import resolve
from tests.helpers.runs import untimed

RUNS = pathlib.Path(__file__).parents[1] / "fixtures" / "runs_of_0.1.0"
TRUSTED = ["--config=configs/curl_dmc.py", "--config.encoder.name=haiku:tests.helpers.tiny_encoder:encoder"]


@pytest.fixture(autouse=True)
def no_rendering(fake_envs, monkeypatch):
    monkeypatch.setattr(dmc, "require_rendering", lambda *args: None)


def arithmetic():
    """What decides how this machine rounds."""
    cpu = pathlib.Path("/proc/cpuinfo")
    lines = [line.partition(":") for line in cpu.read_text().split("\n\n")[0].splitlines()] if cpu.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in lines}
    return {
        "cpu": [facts.get(name) for name in ("model name", "cpu family", "model")],
        "jaxlib": jaxlib.__version__,
        "optimized": os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") != "1",
        "xla_flags": os.environ.get("XLA_FLAGS"),
    }


def close(value, expected):
    """Whether two values of a record are equal but for rounding; checksums are compared elsewhere."""
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(close, value, expected))
    if isinstance(expected, float):
        return math.isclose(value, expected, rel_tol=0.01, abs_tol=0.01)
    return value == expected


@pytest.mark.parametrize(("name", "phase"), [("rainbow", "frozen"), ("curl", "full")])
def test_interrupted_run_is_resumed_as_its_version_would_have_gone_on(tmp_path, name, phase):
    shutil.copytree(RUNS / name, tmp_path / "run")
    saved = checkpoint.newest(tmp_path / "run" / checkpoint.DIRECTORY, pytest.fail)
    assert (saved.format, saved.progress["phase"]) == (1, phase)
    if name == "rainbow":
        assert train.main(["train", f"--run_dir={tmp_path / 'run'}", "--resume"]) == 0
    else:
        train.run(resolve(run_dir.read_config(tmp_path / "run")), tmp_path / "run", resume=True)
    lines, expected = untimed(tmp_path / "run"), untimed(RUNS / name)
    resumed = [line for line in expected if line["env_steps"] > saved.progress["env_steps"]]
    assert len([line for line in resumed if "loss" in line]) >= 6
    for line in resumed:
        if "human_normalized" in line:
            line["human_normalized"] = None  # its episodes are cut short, which 0.1.0 did not look at
    for line, there in zip(lines, expected, strict=True):
        assert line.keys() == there.keys()
        assert {k: (v, there[k]) for k, v in line.items() if k != "params_sha256" and not close(v, there[k])} == {}
    if arithmetic() == json.loads((RUNS / "arithmetic.json").read_text()):
        assert lines == expected


@pytest.mark.parametrize(("name", "arguments", "env_steps"), [("rainbow", [], 180), ("curl", TRUSTED, 80)])
def test_run_is_evaluated(capsys, name, arguments, env_steps):
    assert evaluate.main(["evaluate", f"--run_dir={RUNS / name}", *arguments]) == 0
    assert f"after {env_steps} agent steps" in capsys.readouterr().out


def test_names_of_fields_of_version_0_1_0_are_those_of_the_fixture():
    agent = json.loads((RUNS / "curl" / "config.json").read_text())["agent"]
    assert (agent["actor_update_every"], agent["target_update_every"]) == (1, 2)
    today = resolve(run_dir.read_config(RUNS / "curl")).agent
    assert (today.updates_per_actor_update, today.updates_per_target_update) == (1, 2)
