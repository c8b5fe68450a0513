"""What a configuration may hold, and the sentence with which it is refused otherwise."""

import contextlib
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import curl_dmc, rainbow_atari
from seer_jax import envs, fields
from seer_jax.agents.registry import AGENTS
from seer_jax.config import FREEZE_SHARE, RunConfig
from seer_jax.envs import dmc
from seer_jax.envs.registry import SUITES
from seer_jax.run.resolve import ConfigError, default_config, flat, resolve, sections_of, stored_config
from seer_jax.seer import capacity

PRESETS = ("paper", "baseline", "constrained", "constrained_impoola", "quick")


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


@pytest.mark.skipif(not envs.HAS_EGL, reason="this machine has no EGL to render with")
@pytest.mark.parametrize("backend", list(dmc.BACKENDS))
def test_camera_that_a_task_does_not_have_is_refused(backend):
    if backend == "dm_control":
        pytest.importorskip("dm_control")  # not among the pins for Python 3.13
    config = curl_dmc.get_config()
    config.env.update({"camera_id": 9, "backend": backend})
    with pytest.raises(ConfigError, match=r"env\.camera_id=9 does not show cartpole-swingup"):
        resolve(config)


@pytest.mark.skipif(not envs.HAS_EGL, reason="this machine has no EGL to render with")
@pytest.mark.parametrize(
    "preset", ["paper", "baseline", "constrained", "constrained_impoola", "half_resolution", "impala", "quick"]
)
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
    assert (config.agent.hidden, config.replay, config.seer.freeze_step) == (
        256,
        config.replay,
        round(FREEZE_SHARE * 500_000),
    )
    assert given.to_dict() == {"env": {"suite": "atari", "task": "pong"}, "agent": {"name": "rainbow", "n_step": 3}}


def test_presets_have_published_freeze_steps_and_no_others():
    def step(config):
        return resolve(config).seer.freeze_step

    for preset in ("paper", "constrained"):
        assert step(rainbow_atari.get_config(preset)) == 50_000
        assert step(curl_dmc.get_config(f"{preset},cartpole-swingup")) == 10_000
        assert step(curl_dmc.get_config(f"{preset},walker-walk")) == FREEZE_SHARE * 250_000
    assert step(curl_dmc.get_config("impala")) == FREEZE_SHARE * 80_000
    assert step(rainbow_atari.get_config("quick")) == 8000  # its own lower bound
    longer = rainbow_atari.get_config("quick")
    longer.total_steps = 200_000
    assert step(longer) == FREEZE_SHARE * 200_000
    longer.seer.freeze_step = 4000
    assert step(longer) == 4000
    assert step(rainbow_atari.get_config("baseline")) == "auto"  # of a fork of it, with its own length


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


@pytest.mark.parametrize(("every", "ratio"), [(1, 1.0), (4, 0.25), (5000, 1 / 5000)])
def test_stored_update_every_is_its_replay_ratio_in_both_phases(every, ratio):
    values = {**rainbow_atari.get_config().to_dict(), "update_every": every}
    del values["replay_ratio"], values["seer"]["replay_ratio"], values["seer"]["reset_heads_every"]
    config = resolve(stored_config(values))
    assert config.replay_ratio == config.seer.replay_ratio == ratio
    assert config.seer.reset_heads_every == 0


@pytest.mark.parametrize("every", [0, None, "often"])
def test_stored_update_every_that_is_no_number_of_steps_is_refused(every):
    with pytest.raises(ConfigError, match="update_every="):
        stored_config({**rainbow_atari.get_config().to_dict(), "update_every": every})


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
    sections = {"env", "agent", "encoder", "replay", "seer", "mesh"} if section_class is RunConfig else set()
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
