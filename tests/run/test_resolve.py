"""What a configuration may say, and how it is told that it may not."""

import contextlib

import pytest
from flax import traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import curl_dmc, rainbow_atari
from docs import configuration
from seer_jax import envs, train
from seer_jax.agents.registry import AGENTS
from seer_jax.envs import dmc
from seer_jax.envs.registry import SUITES
from seer_jax.run import resolve as config_lib
from seer_jax.seer import handover

PRESETS = ("paper", "baseline", "constrained", "quick")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_resolve(preset):
    config = config_lib.resolve(rainbow_atari.get_config(preset))
    assert config.is_locked
    assert config.env.noop_max == 30
    assert config.env.life_loss_terminal is True
    assert config.seer.enabled == (preset != "baseline")


def test_protocol_items_can_be_overridden_one_by_one():
    config = rainbow_atari.get_config()
    config.env.protocol = "machado"
    config.env.noop_max = 7
    resolved = config_lib.resolve(config)
    assert (resolved.env.sticky_prob, resolved.env.full_actions, resolved.env.life_loss_terminal) == (0.25, True, False)
    assert resolved.env.noop_max == 7
    assert config.env.sticky_prob is None  # the caller's configuration is left alone


@pytest.mark.parametrize("task", ["ms_pacman", "MsPacman", "MsPacman-v5"])
def test_games_go_by_either_name(task):
    config = rainbow_atari.get_config()
    config.env.task = task
    assert config_lib.resolve(config).env.task == "ms_pacman"


BAD = [
    ({"env.task": "ms_pac_man"}, "did you mean .*ms_pacman"),
    ({"env.task": "walker-walk"}, "no Atari game"),
    ({"env.suite": "procgen"}, "one of atari"),
    ({"env.protocol": "dqn"}, "one of seer, machado"),
    ({"env.image_size": 20, "env.crop_size": 20}, "too small"),
    ({"env.image_size": 8, "env.crop_size": 8, "seer.freeze_through": "conv1"}, "too small"),
    ({"env.crop_size": 20}, "too small"),
    ({"env.crop_size": 90}, "does not fit into env.image_size"),
    ({"env.image_size": 4}, "between 8 and 256"),
    ({"env.noop_max": 0}, "between 1 and"),
    ({"env.sticky_prob": 1.5}, "between 0.0 and 0.99"),
    ({"encoder.name": "resnet"}, "data_efficient, canonical"),
    ({"encoder.compute_dtype": "int8"}, "float32, bfloat16"),
    ({"encoder.name": "haiku:nothing.at.all:f"}, "cannot be imported"),
    ({"agent.name": "dqn"}, "one of rainbow"),
    ({"agent.name": "curl_sac"}, "needs continuous actions and env.suite=atari has discrete ones; use rainbow"),
    ({"agent.discount": 1.01}, "between 0.0 and 1.0"),
    ({"agent.learning_rate": 0.0}, "agent.learning_rate=0.0 is out of range"),
    ({"agent.n_step": 0}, "agent.n_step=0"),
    ({"agent.num_atoms": 1}, "agent.num_atoms=1"),
    ({"agent.target_update_every": 2001, "update_every": 2}, "make it a multiple"),
    ({"num_envs": 3, "update_every": 2}, "multiple of the other"),
    ({"num_envs": 0}, "num_envs=0"),
    ({"seed": -1}, "seed=-1"),
    ({"learn_start": 499_999}, "nothing would be learned"),
    ({"seer.freeze_step": 1601}, "raise it to at least 1602"),
    ({"num_envs": 4, "total_steps": 4000, "seer.freeze_step": 3999}, "would never freeze"),
    (
        {"encoder.name": "canonical", "env.image_size": 160, "env.crop_size": 160, "replay.latent_dtype": "bfloat16"},
        "freeze; use a smaller",
    ),
    ({"learn_start": 10}, "raise it to at least 21"),
    ({"seer.freeze_step": 500_000}, "would never freeze"),
    ({"seer.freeze_step": 1600}, "untrained encoder"),
    ({"seer.num_copies": 4}, "seer.num_copies=4"),
    ({"seer.freeze_through": "conv9"}, "no stage of"),
    ({"replay.capacity": 20}, "cannot hold one 20-step window"),
    ({"replay.latent_dtype": "int8"}, "float32, bfloat16, float16"),
    ({"encoder.name": "canonical"}, "would shrink to 281,250"),
    ({"replay.priority_exponent": 2.0}, "replay.priority_exponent"),
    ({"eval_episodes": 0}, "eval_episodes=0"),
    ({"checkpoint_every": -1}, "checkpoint_every=-1"),
    ({"params_every": -1}, "params_every=-1"),
    ({"on_nan": "cry"}, "one of stop, ignore"),
    ({"num_envs": 4096, "replay.capacity": 4096}, "raise it to at least 86016"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[",".join(changes) for changes, _ in BAD])
def test_bad_values_are_refused_with_the_cure_and_nothing_is_written(changes, message, tmp_path):
    config = rainbow_atari.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(config_lib.ConfigError, match=message):
        train.run(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())


CONTROL_BAD = [
    ({"env.task": "walker-wolk"}, "did you mean walker-walk"),
    ({"env.task": "pong"}, "no task of the DeepMind Control suite"),
    ({"env.backend": "mujoco"}, "one of envpool, dm_control"),
    ({"env.render_quality": "low"}, "one of full, fast"),
    ({"env.action_repeat": 0}, "env.action_repeat=0"),
    ({"env.camera_id": 9}, "env.camera_id=9 does not show cartpole-swingup"),
    ({"env.camera_id": 9, "env.backend": "dm_control"}, "env.camera_id=9 does not show cartpole-swingup"),
    ({"env.crop_size": 101}, "does not fit into env.image_size=100"),
    ({"agent.name": "rainbow"}, "needs discrete actions .* use curl_sac"),
    ({"agent.actor_update_every": 9}, "between 1 and 8"),
    ({"agent.critic_tau": 1.5}, "agent.critic_tau=1.5"),
    ({"agent.log_std_min": "low"}, "is not a number"),
    ({"num_envs": 3}, "no multiple of the 2"),
    ({"seer.freeze_through": "conv5"}, "conv1, conv2, conv3, conv4, dense are"),
    ({"seer.freeze_through": "conv4"}, "freeze up to a later stage than seer.freeze_through=conv4"),
    ({"seer.freeze_step": 0}, "untrained encoder"),
    ({"agent.log_std_min": 3.0}, "is above agent.log_std_max=2.0"),
    ({"agent.actor_update_every": 7, "agent.target_update_every": 8}, "only after 56 updates"),
    ({"env.frame_stack": 12}, "cannot read 84-pixel images"),
]


@pytest.mark.skipif(not envs.HAS_EGL, reason="this machine has no EGL to render with")
@pytest.mark.parametrize(("changes", "message"), CONTROL_BAD, ids=[",".join(changes) for changes, _ in CONTROL_BAD])
def test_bad_values_for_control_are_refused_with_the_cure(changes, message):
    config = curl_dmc.get_config().to_dict()
    for field, value in changes.items():
        section, _, name = field.rpartition(".")
        (config[section] if section else config)[name] = value
    with pytest.raises(config_lib.ConfigError, match=message):
        config_lib.resolve(ConfigDict(config))


def test_a_machine_without_egl_is_told_before_anything_starts(monkeypatch, tmp_path, capsys):
    dmc.require_rendering.cache_clear()
    monkeypatch.setattr(envs, "HAS_EGL", False)
    arguments = ["train", "--config=configs/curl_dmc.py", f"--run_dir={tmp_path / 'run'}"]
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    assert "apt-get install libegl1" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    dmc.require_rendering.cache_clear()


@pytest.mark.skipif(not envs.HAS_EGL, reason="this machine has no EGL to render with")
@pytest.mark.parametrize("preset", ["paper", "baseline", "constrained", "half_resolution", "impala", "quick"])
def test_control_presets_resolve(preset):
    config = config_lib.resolve(curl_dmc.get_config(preset))
    assert (config.env.action_repeat, config.env.camera_id) == (8, 0)
    assert config.seer.freeze_through == "dense"
    assert config.env.render_quality == ("fast" if preset == "quick" else "full")


@pytest.mark.skipif(not envs.HAS_EGL, reason="this machine has no EGL to render with")
@pytest.mark.parametrize(
    ("task", "repeat", "capacity"),
    [
        ("finger-spin", 2, 1000),
        ("reacher-easy", 4, 2000),
        ("walker-walk", 2, 2000),
        ("hopper-hop", 4, 2000),
        ("walker-stand", 2, 2000),
        ("cheetah-run", 4, 2000),
        ("ball_in_cup-catch", 4, 2000),
    ],
)
def test_presets_of_the_papers_tasks(task, repeat, capacity):
    config = config_lib.resolve(curl_dmc.get_config(f"constrained,{task}"))
    assert (config.env.task, config.env.action_repeat, config.replay.capacity) == (task, repeat, capacity)
    assert handover.frozen_capacity(config) == int(capacity * 18.75)


def test_latents_larger_than_frames_need_leave_or_fewer_bytes():
    for changes in ({"replay.latent_dtype": "bfloat16"}, {"replay.allow_more_memory": True}, {"seer.enabled": False}):
        config = rainbow_atari.get_config()
        config.update_from_flattened_dict({"encoder.name": "canonical"} | changes)
        config_lib.resolve(config)


CONFIG = "--config=configs/rainbow_atari.py"
BAD_COMMANDS = [
    ([], "--config=FILE is missing"),
    (["--config=configs/nothing.py"], "configs/nothing.py"),
    ([f"{CONFIG}:huge"], "preset 'huge' is unknown"),
    (["--config=pyproject.toml"], "pyproject.toml"),
    ([CONFIG, "--config.nothing=1"], "nothing"),
    ([CONFIG, "--config.seed=abc"], "seed"),
    ([CONFIG, "--config.seer.enabled=maybe"], "maybe"),
    ([CONFIG, "--nothing"], "nothing"),
    ([CONFIG, "extra"], "unexpected argument 'extra'"),
    ([CONFIG, "--config.env.task=pingpong"], "did you mean"),
    ([CONFIG, "--config.total_steps=1.5e0"], "total_steps"),
    ([CONFIG, "--config.total_steps=1e300"], "total_steps"),
    (["--resume"], "holds no config.json"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_COMMANDS, ids=lambda value: str(value)[:40])
def test_bad_commands_end_in_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert train.main(["train", f"--run_dir={run_dir}", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("train: ")
    assert error.count("\n") == 1
    assert message in error
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def get_config(:", "SyntaxError"),
        ("import nothing_at_all", "nothing_at_all"),
        ("def get_config(): return {}", "it must give a ConfigDict"),
        ("def get_config(): raise RuntimeError('no luck')", "no luck"),
        ("from ml_collections import ConfigDict\ndef get_config(): return ConfigDict(dict(seed=1))", "missing"),
    ],
)
def test_bad_configuration_files_end_in_one_line(source, message, tmp_path, capsys):
    (tmp_path / "bad.py").write_text(source)
    assert train.main(["train", f"--config={tmp_path / 'bad.py'}", f"--run_dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "run").exists()


def test_flags_are_booleans():
    config = rainbow_atari.get_config().to_dict()
    config["seer"]["enabled"] = "no"
    with pytest.raises(config_lib.ConfigError, match="neither True nor False"):
        config_lib.resolve(config_lib.ConfigDict(config))


def test_an_existing_run_is_never_touched(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert train.main(["train", CONFIG, f"--run_dir={tmp_path}"]) == 2
    assert "name a new directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_help_is_not_an_error(capsys):
    assert train.main(["train", "--help"]) == 0
    assert "--config" in capsys.readouterr().out


def test_whole_numbers_may_have_an_exponent(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train, "run", lambda config, run_dir, **kwargs: seen.append(config))
    arguments = ["--config.total_steps=6e5", "--config.replay.capacity=2.5e5", "--config.agent.learning_rate=1e-3"]
    assert train.main(["train", CONFIG, f"--run_dir={tmp_path / 'run'}", *arguments]) == 0
    assert (seen[0].total_steps, seen[0].replay.capacity, seen[0].agent.learning_rate) == (600_000, 250_000, 1e-3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no config.json"),
        ("", "can be read"),
        ("{", "can be read"),
        ("[1]", "can be read"),
        ('{"seed": 1}', "is missing"),
        ('{"encoder": {"name": "haiku:os:getcwd"}}', "if you trust it"),
    ],
)
def test_directories_that_hold_no_run_cannot_be_resumed(content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert train.main(["train", "--resume", f"--run_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"] * (content is not None)


def test_resume_needs_a_directory(capsys):
    assert train.main(["train", "--resume", CONFIG]) == 2
    assert "--resume needs --run_dir" in capsys.readouterr().err


def test_a_directory_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train.main(["train", CONFIG, f"--run_dir={tmp_path / 'file' / 'run'}"]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("module", [rainbow_atari, curl_dmc])
def test_every_field_has_a_meaning_and_no_meaning_is_without_a_field(module):
    config = module.get_config()
    own = {**SUITES[config.env.suite].fields, **AGENTS[config.agent.name].FIELDS}
    described = {**config_lib.general_fields(), **own}
    assert described.keys() == traverse_util.flatten_dict(config.to_dict(), sep=".").keys()
    assert all(field.meaning for field in described.values())


def test_the_reference_of_the_configuration_is_up_to_date():
    assert configuration.PAGE.read_text() == configuration.text()


FIELDS = tuple(rainbow_atari.get_config().to_dict())
LEAVES = [
    name if section is None else f"{section}.{name}"
    for section, names in [(None, FIELDS), *((s, v) for s, v in rainbow_atari.get_config().to_dict().items())]
    for name in (names if section is None or isinstance(names, dict) else ())
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["krull", "canonical", "impala", "bfloat16", "machado", "conv1", "curl_sac", "dmc", "haiku:x:y"]),
    st.just({}),
    st.just([1, 2]),
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(LEAVES), VALUES, min_size=1, max_size=4))
def test_whatever_a_configuration_holds_it_resolves_or_is_refused(changes):
    config = rainbow_atari.get_config().to_dict()
    for field, value in changes.items():
        section, _, name = field.rpartition(".")
        if section and not isinstance(config[section], dict):
            continue
        (config[section] if section else config)[name] = value
    with contextlib.suppress(config_lib.ConfigError):
        assert config_lib.resolve(ConfigDict(config)).is_locked
