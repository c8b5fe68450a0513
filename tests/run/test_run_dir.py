"""The directory of a run: made once, compared with a configuration, and never trusted with code."""

import json

import pytest
from ml_collections import ConfigDict

from configs import curl_dmc
from seer_jax.fields import ConfigError
from seer_jax.run import run_dir
from seer_jax.run.resolve import resolve
from tests.helpers.runs import tiny_config


def test_started_directory_holds_configuration_and_manifest(tmp_path):
    config, directory = resolve(tiny_config(seed=3)), tmp_path
    assert not run_dir.is_started(directory)
    run_dir.start(config, directory, ["--config=configs/rainbow_atari.py"])
    assert run_dir.is_started(directory)
    assert resolve(run_dir.read_config(directory)) == config
    manifest = run_dir.read_manifest(directory)
    assert manifest["arguments"] == ["--config=configs/rainbow_atari.py"]
    facts = {name: manifest[name] for name in ("seed", "protocol", "resize", "first_stack")}
    assert facts == {"seed": 3, "protocol": "seer", "resize": "linear", "first_stack": "black"}
    assert manifest["packages"].keys() >= {"jax", "jaxlib", "envpool"}
    assert manifest["devices"]
    run_dir.check_same(config, directory)


def test_directory_that_is_not_empty_is_refused_apart_from_what_may_be_there(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already exists; name a new directory"):
        run_dir.check_empty(tmp_path)
    run_dir.check_empty(tmp_path, apart_from=["notes.txt"])


def test_files_of_an_interrupted_start_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for name in ("manifest.json", "manifest.json.partial", "config.json.partial"):
        (tmp_path / name).write_text("{")
    run_dir.clear_unstarted(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_other_configuration_is_refused_with_the_values_of_both(tmp_path):
    run_dir.start(resolve(tiny_config()), tmp_path, [])
    other = resolve(tiny_config(agent__hidden=4, seed=1))
    with pytest.raises(ConfigError, match=r"agent\.hidden=8 there and 4 here, seed=0 there and 1 here"):
        run_dir.check_same(other, tmp_path)


def test_fields_that_a_directory_does_not_name_have_their_defaults(tmp_path):
    """As those of a later version, in a directory of an earlier one."""
    config = resolve(tiny_config())
    run_dir.start(config, tmp_path, [])
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values["on_nan"], values["agent"]["eval_epsilon"]
    path.write_text(json.dumps(values))
    run_dir.check_same(config, tmp_path)
    values["agent"]["eval_epsilon"] = 0.5
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"agent\.eval_epsilon=0\.5 there and 0\.001 here"):
        run_dir.check_same(config, tmp_path)


def test_fields_that_runs_of_earlier_versions_lack_have_the_values_of_those_versions(tmp_path, monkeypatch):
    monkeypatch.setattr("seer_jax.envs.dmc.require_rendering", lambda *args: None)
    for config, name, earlier, today in (
        (resolve(tiny_config()), "env.resize", "area", "linear"),
        (resolve(curl_dmc.get_config()), "env.first_stack", "black", "repeat"),
        (resolve(curl_dmc.get_config()), "agent.double_contrastive_step", False, True),
    ):
        directory = tmp_path / name
        directory.mkdir()
        run_dir.start(config, directory, [])
        values = json.loads((directory / "config.json").read_text())
        section, field = name.split(".")
        assert values[section].pop(field) == today
        (directory / "config.json").write_text(json.dumps(values))
        assert getattr(getattr(resolve(run_dir.read_config(directory)), section), field) == earlier
        with pytest.raises(ConfigError, match=f"{name}={earlier} there and {today} here"):
            run_dir.check_same(config, directory)


def test_directory_with_former_names_of_fields_holds_the_same_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr("seer_jax.envs.dmc.require_rendering", lambda *args: None)
    config = resolve(curl_dmc.get_config())
    run_dir.start(config, tmp_path, [])
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["agent"]["actor_update_every"] = values["agent"].pop("updates_per_actor_update")
    values["agent"]["target_update_every"] = values["agent"].pop("updates_per_target_update")
    path.write_text(json.dumps(values))
    run_dir.check_same(config, tmp_path)
    assert resolve(run_dir.read_config(tmp_path)) == config


@pytest.mark.parametrize("content", [None, "", "{", "[1]", "3"])
def test_directory_without_a_readable_configuration_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"holds no config\.json that can be read"):
        run_dir.read_config(tmp_path)


def test_line_that_is_still_being_written_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train"}\n{"kind": "eval"}\n{"kind": "tr')
    assert [record["kind"] for record in run_dir.read_records(path)] == ["train", "eval"]


HAIKU = {"encoder": {"name": "haiku:mine:encoder"}}


@pytest.mark.parametrize(
    ("config", "trusted", "expected"),
    [
        ({"agent": {"name": "rainbow"}, "env": {"suite": "atari"}}, None, None),
        (HAIKU, None, "encoder.name=haiku:mine:encoder"),
        (HAIKU, {"encoder": {"name": "haiku:other:encoder"}}, "encoder.name=haiku:mine:encoder"),
        (HAIKU, HAIKU, None),
        ({"agent": {"name": "mine"}}, None, "agent.name=mine"),
        ({"env": {"suite": "mine"}}, None, "env.suite=mine"),
        ({"agent": {"name": "mine"}}, {"encoder": {"name": "impala"}}, None),
    ],
)
def test_code_that_the_user_did_not_name_is_foreign(config, trusted, expected):
    trusted = None if trusted is None else ConfigDict(trusted)
    assert run_dir.foreign_code(ConfigDict(config), trusted) == expected
