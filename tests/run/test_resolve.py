"""What a configuration may hold, and the sentence with which it is refused otherwise."""

import contextlib
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import curl_dmc, rainbow_atari
from seer_jax import envs, fields, train
from seer_jax.agents.registry import AGENTS
from seer_jax.config import RunConfig
from seer_jax.envs.registry import SUITES
from seer_jax.run.resolve import ConfigError, default_config, flat, resolve, sections_of
from seer_jax.seer import capacity

PRESETS = ("paper", "baseline", "constrained", "quick")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_resolve(preset):
    config = resolve(rainbow_atari.get_config(preset))
    assert isinstance(config, RunConfig)
    assert config.env.noop_max == 30
    assert config.env.life_loss_terminal is True
    assert config.seer.enabled == (preset != "baseline")
    assert not config.seer.sync_target_heads
    assert (config.env.resize, config.env.first_stack) == ("linear", "black")


def test_protocol_items_can_be_overridden_one_by_one():
    config = rainbow_atari.get_config()
    config.env.protocol = "machado"
    config.env.noop_max = 7
    resolved = resolve(config)
    assert (resolved.env.sticky_prob, resolved.env.full_actions, resolved.env.life_loss_terminal) == (0.25, True, False)
    assert resolved.env.noop_max == 7
    assert config.env.sticky_prob is None  # the caller's configuration is left alone


@pytest.mark.parametrize(
    "task",
    [
        "ms_pacman",
        "MsPacman",
        "MsPacman-v5",
        "MsPacman-v4",
        "ALE/MsPacman-v5",
        "ALE/MsPacman",
        "MsPacmanNoFrameskip-v4",
        "MsPacmanDeterministic-v4",
    ],
)
def test_games_are_known_by_all_their_usual_names(task):
    config = rainbow_atari.get_config()
    config.env.task = task
    assert resolve(config).env.task == "ms_pacman"


BAD = [
    ({"env.task": "ms_pac_man"}, "did you mean .*ms_pacman"),
    ({"env.task": "walker-walk"}, "no Atari game"),
    ({"env.task": "PongoNoFrameskip-v4"}, "is no Atari game of EnvPool; "),
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
    ({"agent.name": "curl_sac"}, "needs continuous actions, and those of env.suite=atari are discrete; use rainbow"),
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
    ({"seer.freeze_through": "conv9"}, "is not a stage of data_efficient; choose one of conv1, conv2"),
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
def test_bad_values_are_refused_with_a_fix_and_nothing_is_written(changes, message, tmp_path):
    config = rainbow_atari.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
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
    ({"agent.name": "rainbow"}, "needs discrete actions, .* use curl_sac"),
    ({"agent.updates_per_actor_update": 9}, "agent.updates_per_actor_update=9 .* between 1 and 8"),
    ({"agent.critic_tau": 1.5}, "agent.critic_tau=1.5"),
    ({"agent.log_std_min": "low"}, "is not a number"),
    ({"num_envs": 3}, "is not a multiple of the 2"),
    ({"seer.freeze_through": "conv5"}, "is not a stage of sac_ae; choose one of conv1, conv2, conv3, conv4, dense"),
    ({"seer.freeze_through": "conv4"}, "freeze up to a later stage than seer.freeze_through=conv4"),
    ({"seer.freeze_step": 0}, "untrained encoder"),
    ({"agent.log_std_min": 3.0}, "is above agent.log_std_max=2.0"),
    ({"agent.updates_per_actor_update": 7, "agent.updates_per_target_update": 8}, "only after 56 updates"),
    ({"env.frame_stack": 12}, "cannot read 84-pixel images"),
]


@pytest.mark.skipif(not envs.HAS_EGL, reason="this machine has no EGL to render with")
@pytest.mark.parametrize(("changes", "message"), CONTROL_BAD, ids=[",".join(changes) for changes, _ in CONTROL_BAD])
def test_bad_values_for_control_are_refused_with_a_fix(changes, message):
    config = curl_dmc.get_config().to_dict()
    for field, value in changes.items():
        section, _, name = field.rpartition(".")
        (config[section] if section else config)[name] = value
    if config["env"]["backend"] == "dm_control":
        pytest.importorskip("dm_control")  # not among the pins for Python 3.13
    with pytest.raises(ConfigError, match=message):
        resolve(ConfigDict(config))


@pytest.mark.skipif(not envs.HAS_EGL, reason="this machine has no EGL to render with")
@pytest.mark.parametrize("preset", ["paper", "baseline", "constrained", "half_resolution", "impala", "quick"])
def test_control_presets_resolve(preset):
    config = resolve(curl_dmc.get_config(preset))
    assert config.seer.sync_target_heads
    assert config.env.first_stack == "repeat"
    assert (config.env.action_repeat, config.env.camera_id) == (8, 0)
    assert config.seer.freeze_through == "dense"
    assert config.env.render_quality == ("fast" if preset == "quick" else "full")


@pytest.mark.skipif(not envs.HAS_EGL, reason="this machine has no EGL to render with")
@pytest.mark.parametrize(
    ("task", "repeat", "rows"),
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
def test_presets_of_the_papers_tasks_have_its_capacities(task, repeat, rows):
    config = resolve(curl_dmc.get_config(f"constrained,{task}"))
    assert (config.env.task, config.env.action_repeat, config.replay.capacity) == (task, repeat, rows)
    assert capacity.frozen_capacity(config) == int(rows * 18.75)


def test_latents_larger_than_frames_are_accepted_with_more_memory_or_fewer_bytes():
    for changes in ({"replay.latent_dtype": "bfloat16"}, {"replay.allow_more_memory": True}, {"seer.enabled": False}):
        config = rainbow_atari.get_config()
        config.update_from_flattened_dict({"encoder.name": "canonical"} | changes)
        resolve(config)


def test_flags_are_booleans():
    config = rainbow_atari.get_config().to_dict()
    config["seer"]["enabled"] = "no"
    with pytest.raises(ConfigError, match="neither True nor False"):
        resolve(ConfigDict(config))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "there is no field nothing; docs/configuration.md lists all fields"),
        ("freeze_step", "there is no field freeze_step; did you mean seer.freeze_step?"),
        ("seer.freeze_stp", "there is no field seer.freeze_stp; did you mean seer.freeze_step?"),
        ("agent.capacity", "there is no field agent.capacity; did you mean replay.capacity?"),
        ("agent.critic_tau", "there is no field agent.critic_tau; docs/configuration.md lists all fields"),
        ("agent.lr", "there is no field agent.lr; docs/configuration.md lists all fields"),
        ("agents.hidden", "there is no field agents.hidden; did you mean agent.hidden?"),
    ],
)
def test_unknown_field_is_refused_with_the_field_that_was_probably_meant(name, message):
    values = rainbow_atari.get_config().to_dict()
    section, _, leaf = name.rpartition(".")
    (values.setdefault(section, {}) if section else values)[leaf] = 1
    with pytest.raises(ConfigError) as caught:
        resolve(ConfigDict(values))
    assert str(caught.value) == message


@pytest.mark.parametrize("section", ["env", "agent", "replay"])
def test_section_that_is_no_section_is_refused(section):
    values = rainbow_atari.get_config().to_dict() | {section: 3}
    with pytest.raises(ConfigError, match=r"(=3 is not a section|is missing); start from a file in configs/"):
        resolve(ConfigDict(values))


def test_missing_fields_get_their_defaults():
    given = ConfigDict({"env": {"suite": "atari", "task": "pong"}, "agent": {"name": "rainbow", "n_step": 3}})
    config, whole = resolve(given), default_config(suite="atari", agent="rainbow")
    whole.env.task, whole.agent.n_step = "pong", 3
    assert config == resolve(whole)
    assert (config.agent.hidden, config.replay, config.seer.freeze_step) == (256, config.replay, 50_000)
    assert given.to_dict() == {"env": {"suite": "atari", "task": "pong"}, "agent": {"name": "rainbow", "n_step": 3}}


@pytest.mark.parametrize("name", ["env.suite", "env.task", "agent.name"])
def test_suite_task_and_algorithm_have_no_default(name):
    values = rainbow_atari.get_config().to_dict()
    section, leaf = name.split(".")
    del values[section][leaf]
    with pytest.raises(ConfigError, match=name):
        resolve(ConfigDict(values))


def test_former_names_of_curl_fields_are_read_as_those_of_today(monkeypatch):
    monkeypatch.setattr("seer_jax.envs.dmc.require_rendering", lambda *args: None)
    values = curl_dmc.get_config().to_dict()
    agent = values["agent"]
    del agent["updates_per_actor_update"], agent["updates_per_target_update"]
    agent["actor_update_every"], agent["target_update_every"] = 4, 1
    resolved = resolve(ConfigDict(values)).agent
    assert (resolved.updates_per_actor_update, resolved.updates_per_target_update) == (4, 1)


def test_target_update_every_of_rainbow_keeps_its_name_and_unit():
    config = rainbow_atari.get_config()
    config.agent.target_update_every = 4000
    assert resolve(config).agent.target_update_every == 4000


def test_resolved_configuration_resolves_to_itself():
    config = resolve(rainbow_atari.get_config("quick"))
    assert resolve(ConfigDict(config.to_dict())) == config


def test_numbers_get_the_type_of_their_field():
    config = ConfigDict(rainbow_atari.get_config().to_dict())
    with config.ignore_type():
        config.agent.v_max = 10
    resolved = resolve(config)
    assert (resolved.agent.v_max, type(resolved.agent.v_max)) == (10.0, float)


SECTIONS = sorted(
    {
        section_class
        for suite in ("atari", "dmc")
        for agent in ("rainbow", "curl_sac")
        for section_class in sections_of(SUITES[suite], AGENTS[agent]).values()
    },
    key=lambda section_class: section_class.__name__,
)


@pytest.mark.parametrize("section_class", SECTIONS)
def test_every_field_has_a_meaning_and_a_default_within_its_bounds(section_class):
    declared, defaults = fields.fields_of(section_class), fields.defaults_of(section_class)
    sections = {"env", "agent", "encoder", "replay", "seer"} if section_class is RunConfig else set()
    assert declared.keys() == defaults.keys()
    assert declared.keys() | sections == {field.name for field in dataclasses.fields(section_class)}
    for name, field in declared.items():
        assert field.meaning
        if defaults[name] is not None:
            assert field.check(name, defaults[name]) == defaults[name]


def test_default_configuration_holds_every_field():
    held = set(flat(rainbow_atari.get_config().to_dict()))
    declared = {
        f"{section}.{name}".lstrip(".")
        for section, section_class in sections_of(SUITES["atari"], AGENTS["rainbow"]).items()
        for name in fields.fields_of(section_class)
    }
    assert held == declared


LEAVES = sorted({*rainbow_atari.get_config().to_dict(), *flat(rainbow_atari.get_config().to_dict()), "seer.nothing"})
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
def test_configuration_of_any_values_resolves_or_is_refused(changes):
    config = rainbow_atari.get_config().to_dict()
    for field, value in changes.items():
        section, _, name = field.rpartition(".")
        if section and not isinstance(config[section], dict):
            continue
        (config[section] if section else config)[name] = value
    with contextlib.suppress(ConfigError):
        assert isinstance(resolve(ConfigDict(config)), RunConfig)
