"""Whole runs: on an environment that forces every kind of ending, and on a real game."""

import json

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import curl_dmc, rainbow_atari
from seer_jax import assembly, checkpoint, envs, evaluate, train
from seer_jax import config as config_lib
from seer_jax.envs import registry
from tests.fake_env import FakeEnv

KINDS = {"train", "episode", "eval", "freeze", "checkpoint", "end"}
COMMON = {
    "env_steps",
    "frames",
    "updates",
    "seconds",
    "phase",
    "flops_total",
    "replay_bytes",
    "replay_capacity",
    "replay_size",
}


def tiny_config(**changes):
    """A run of 400 steps that freezes at 200; `changes` are overrides by dotted name, dots as __."""
    config = rainbow_atari.get_config("quick")
    overrides = {
        "total_steps": 400,
        "learn_start": 80,
        "num_envs": 2,
        "log_every": 50,
        "eval_every": 200,
        "eval_episodes": 2,
        "checkpoint_every": 150,
        "env.image_size": 42,
        "env.crop_size": 42,
        "agent.n_step": 3,
        "agent.hidden": 8,
        "agent.batch_size": 4,
        "replay.capacity": 300,
        "replay.grow_after_freeze": True,
        "seer.freeze_step": 200,
    }
    config.update_from_flattened_dict(overrides | {name.replace("__", "."): value for name, value in changes.items()})
    return config


@pytest.fixture
def fake_envs(monkeypatch):
    """Replaces the games by `FakeEnv`s and returns those that were made; steps may move no array by accident."""
    made, vector_step = [], train.Trainer._vector_step

    def guarded_step(trainer):
        with jax.transfer_guard("disallow"):
            vector_step(trainer)

    def make_env(config, *, training):
        lengths = [7, 12, 5, 9][: config.num_envs if training else config.eval_episodes]
        made.append(FakeEnv(lengths, training=training))
        return made[-1]

    monkeypatch.setattr(registry, "make_env", make_env)
    monkeypatch.setattr(train.Trainer, "_vector_step", guarded_step)
    return made


def records(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_from_frames_to_latents(fake_envs, tmp_path, monkeypatch):
    compiled, compile_phase = [], assembly.Assembly.compile

    def counting(parts, phase):
        compiled.append(phase)
        return compile_phase(parts, phase)

    monkeypatch.setattr(assembly.Assembly, "compile", counting)
    end = train.run(tiny_config(), tmp_path / "run")
    lines = records(tmp_path / "run")
    assert {line["kind"] for line in lines} == KINDS
    assert all(set(line) >= COMMON for line in lines)
    assert compiled == ["full", "frozen"]  # each phase's programs exactly once
    assert end == {name: value for name, value in lines[-1].items() if name != "kind"}

    # One update for each agent step after learning starts, whatever the batch of environments.
    assert 400 <= end["env_steps"] <= 401
    assert end["updates"] in (end["env_steps"] - 80, end["env_steps"] - 81)
    freeze = next(line for line in lines if line["kind"] == "freeze")
    assert 200 <= freeze["env_steps"] <= 201
    # At the freeze every row lives on: steps of two environments, and a final row for each episode.
    episodes = sum(line["kind"] == "episode" for line in lines[: lines.index(freeze)])
    assert freeze["rows_moved"] in range(freeze["env_steps"] + episodes, freeze["env_steps"] + episodes + 3)
    assert end["replay_size"] > freeze["rows_moved"]
    assert end["replay_capacity"] == 300 * 42 * 42 // (4 * 64) // 2 * 2
    assert end["frozen_flops_per_step"] < end["full_flops_per_step"]
    flops = [line["flops_total"] for line in lines]
    assert flops == sorted(flops)
    assert all(env.closed for env in fake_envs)

    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["env"]["task"] == "krull"
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["seed"] == 0
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    saved = checkpoint.load_state(tmp_path / "run" / "checkpoints")
    assert saved["env_steps"] == end["env_steps"]
    before = checkpoint.load_state(tmp_path / "run" / "checkpoints" / "freeze")
    jax.tree.map(np.testing.assert_array_equal, saved["train"]["params"]["encoder"], before["params"]["encoder"])


def test_episode_records_hold_raw_scores(fake_envs, tmp_path):
    train.run(tiny_config(total_steps=200, seer__enabled=False), tmp_path / "run")
    episodes = [line for line in records(tmp_path / "run") if line["kind"] == "episode"]
    assert {line["length"] for line in episodes} == {7, 12}
    assert all(line["return"] == 10 * line["length"] for line in episodes)


@pytest.mark.parametrize(("num_envs", "update_every", "updates"), [(1, 1, 120), (4, 1, 120), (4, 2, 60), (2, 4, 30)])
def test_updates_per_agent_step_do_not_depend_on_batching(fake_envs, tmp_path, num_envs, update_every, updates):
    config = tiny_config(
        total_steps=200, num_envs=num_envs, update_every=update_every, seer__enabled=False, agent__target_update_every=4
    )
    end = train.run(config, tmp_path / "run")
    slack = max(1, num_envs // update_every)
    assert updates - slack <= end["updates"] <= updates + slack


def test_prioritized_replay_and_half_precision_latents_run_through_the_freeze(fake_envs, tmp_path):
    config = tiny_config(replay__prioritized=True, replay__latent_dtype="bfloat16")
    end = train.run(config, tmp_path / "run")
    assert end["phase"] == "frozen"
    losses = [line["loss"] for line in records(tmp_path / "run") if line["kind"] == "train" and "loss" in line]
    assert np.isfinite(losses).all()


def test_equal_seeds_give_equal_runs_and_others_do_not(fake_envs, tmp_path):
    def losses(seed, name):
        train.run(tiny_config(seed=seed, total_steps=250), tmp_path / name)
        return [line["loss"] for line in records(tmp_path / name) if line["kind"] == "train" and "loss" in line]

    first = losses(1, "first")
    assert first == losses(1, "again")
    assert first != losses(2, "other")


def test_baseline_never_freezes(fake_envs, tmp_path):
    end = train.run(tiny_config(seer__enabled=False), tmp_path / "run")
    assert end["phase"] == "full"
    assert end["replay_capacity"] == 300
    assert not (tmp_path / "run" / "checkpoints" / "freeze").exists()


class Recorder:
    """A configuration that remembers which fields were read."""

    def __init__(self, config, read, prefix=""):
        self._config, self._read, self._prefix = config, read, prefix

    def __getattr__(self, name):
        if name == "to_dict":
            return self._config.to_dict
        return self[name]

    def __getitem__(self, name):
        value = self._config[name]
        if hasattr(value, "items"):
            return Recorder(value, self._read, f"{self._prefix}{name}.")
        self._read.add(self._prefix + name)
        return value


def leaves(config, prefix=""):
    for name, value in config.items():
        yield from leaves(value, f"{prefix}{name}.") if hasattr(value, "items") else [prefix + name]


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    """A real game through the freeze, and the fields of the configuration that the run read."""
    read, resolve = set(), config_lib.resolve
    run_dir = tmp_path_factory.mktemp("real") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_lib, "resolve", lambda config: Recorder(resolve(config), read))
        end = train.run(tiny_config(env__task="krull", env__max_episode_steps=60), run_dir)
    return run_dir, end, read


def test_a_real_game(real_run):
    run_dir, end, _ = real_run
    assert end["phase"] == "frozen"
    assert end["eval_return_mean"] >= 0
    assert end["human_normalized"] is not None
    evals = [line for line in records(run_dir) if line["kind"] == "eval"]
    assert [len(line["eval_returns"]) for line in evals] == [2, 2]
    assert all(line["eval_length_mean"] <= 60 for line in evals)


def test_every_field_of_the_configuration_is_read_by_a_run(real_run):
    # Whether memory may grow is asked before the run alone.
    elsewhere = {"replay.allow_more_memory"}
    assert set(leaves(rainbow_atari.get_config())) - real_run[2] == elsewhere


def test_evaluate_command_prints_a_table_and_writes_a_video(real_run, capsys):
    run_dir = real_run[0]
    assert evaluate.main(["evaluate", f"--run_dir={run_dir}", "--episodes=3", "--video"]) == 0
    out = capsys.readouterr().out
    assert "krull" in out
    assert "human-normalized" in out
    video = iio.imread(run_dir / "videos" / "episode.mp4")
    assert video.shape[1:] == (168, 168, 3)
    assert 2 <= len(video) <= 62
    assert video.std() > 1


def test_evaluation_is_of_the_saved_parameters(real_run, monkeypatch):
    run_dir, _, _ = real_run
    seen = []

    def play(act, params, env, key, **kwargs):
        seen.append(params)
        return evaluate.Episodes(np.zeros(2), np.ones(2, int))

    monkeypatch.setattr(evaluate, "play", play)
    assert evaluate.main(["evaluate", f"--run_dir={run_dir}"]) == 0
    saved = checkpoint.load_state(run_dir / "checkpoints")["train"]["params"]
    at_freeze = checkpoint.load_state(run_dir / "checkpoints" / "freeze")["params"]
    jax.tree.map(np.testing.assert_array_equal, seen[0], saved)
    jax.tree.map(np.testing.assert_array_equal, seen[0]["encoder"], at_freeze["encoder"])
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), seen[0]["heads"], at_freeze["heads"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("damaged", ["config.json", "checkpoints/state.msgpack"])
def test_a_damaged_run_is_told_in_one_line(tmp_path, capsys, damaged):
    (tmp_path / "config.json").write_text(json.dumps(config_lib.resolve(tiny_config()).to_dict()))
    checkpoint.save_state(tmp_path / "checkpoints", {"env_steps": 1, "train": {"params": {}}})
    whole = (tmp_path / damaged).read_bytes()
    (tmp_path / damaged).write_bytes(whole[: len(whole) // 2])
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path}"]) == 2
    assert "is damaged" in capsys.readouterr().err


@pytest.fixture(scope="module")
def control_run(tmp_path_factory):
    """CURL-SAC on a real task with real rendering, through the freeze."""
    if not envs.HAS_EGL:
        pytest.skip("this machine has no EGL to render with")
    config = curl_dmc.get_config("quick")
    tiny = {
        "total_steps": 140,
        "learn_start": 40,
        "num_envs": 2,
        "log_every": 20,
        "eval_every": 100,
        "eval_episodes": 2,
        "checkpoint_every": 100,
        "env.action_repeat": 25,
        "env.image_size": 34,
        "env.crop_size": 30,
        "agent.hidden": 8,
        "agent.batch_size": 4,
        "agent.random_steps": 20,
        "encoder.name": "data_efficient",
        "replay.capacity": 100,
        "replay.grow_after_freeze": True,
        "seer.freeze_step": 90,
    }
    config.update_from_flattened_dict(tiny)
    run_dir = tmp_path_factory.mktemp("control") / "run"
    return run_dir, train.run(config, run_dir)


def test_a_real_control_task(control_run):
    run_dir, end = control_run
    assert end["phase"] == "frozen"
    assert end["env_steps"] - 42 <= end["updates"] <= end["env_steps"] - 40
    assert end["replay_capacity"] == 34 * 34 * 3 * 100 // (4 * 4 * 2 * 50) // 2 * 2
    lines = records(run_dir)
    assert {line["kind"] for line in lines} == KINDS
    full, frozen = ([r for r in lines if r["kind"] == "train" and r["phase"] == p][-1] for p in ("full", "frozen"))
    assert {"critic_loss", "contrast_loss", "actor_loss", "temperature"} <= set(full)
    assert "contrast_loss" not in frozen
    assert {r["length"] for r in lines if r["kind"] == "episode"} == {40}
    assert end["eval_length_mean"] == 40
    before = checkpoint.load_state(run_dir / "checkpoints" / "freeze")["params"]
    after = checkpoint.load_state(run_dir / "checkpoints")["train"]["params"]
    for part in ("encoder", "actor_encoder"):
        jax.tree.map(np.testing.assert_array_equal, after[part], before[part])


def test_evaluating_a_control_task_writes_a_video_in_colour(control_run, capsys):
    run_dir = control_run[0]
    assert evaluate.main(["evaluate", f"--run_dir={run_dir}", "--episodes=1", "--video"]) == 0
    assert "human-normalized" not in capsys.readouterr().out
    video = iio.imread(run_dir / "videos" / "episode.mp4")
    assert video.shape == (40, 136, 136, 3)
    assert np.ptp(video.astype(int), axis=-1).max() > 30


def test_a_run_cannot_make_evaluate_import_code(tmp_path, capsys):
    config = config_lib.resolve(tiny_config()).to_dict()
    config["encoder"]["name"] = "haiku:nothing.at.all:encoder"
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint.save_state(tmp_path / "checkpoints", {"env_steps": 1, "train": {"params": {}}})
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path}"]) == 2
    assert "if you trust it" in capsys.readouterr().err
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path}", "--encoder=haiku:nothing.at.all:encoder"]) == 2
    assert "cannot be imported" in capsys.readouterr().err


def test_logging_at_every_step_and_many_environments(fake_envs, tmp_path):
    train.run(tiny_config(log_every=1, num_envs=4, total_steps=120, seer__freeze_step=100), tmp_path / "run")
    assert len([line for line in records(tmp_path / "run") if line["kind"] == "train"]) >= 30


def test_the_guard_of_the_runs_here_sees_accidental_transfers():
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match=r"[Dd]isallowed"):
        jnp.add(np.ones(3), 1)


@pytest.mark.parametrize("prioritized", [False, True])
def test_programs_own_their_buffers(fake_envs, tmp_path, monkeypatch, prioritized):
    """Neither program of either phase copies the ring: outputs alias inputs, temporaries are smaller."""
    compiled, compile_phase = [], assembly.Assembly.compile

    def keeping(parts, phase):
        compiled.append((compile_phase(parts, phase), parts.ring(phase).num_bytes))
        return compiled[-1][0]

    monkeypatch.setattr(assembly.Assembly, "compile", keeping)
    config = tiny_config(replay__prioritized=prioritized, replay__capacity=40_000, replay__grow_after_freeze=False)
    config.update_from_flattened_dict({"seer.freeze_step": 4000, "total_steps": 4100, "learn_start": 3990})
    config.update_from_flattened_dict({"eval_every": 5000, "log_every": 5000})
    train.run(config, tmp_path / "run")
    assert len(compiled) == 2
    for programs, ring_bytes in compiled:
        for program in (programs.interact, programs.learn):
            memory = program.memory_analysis()
            assert memory.alias_size_in_bytes >= ring_bytes
            assert memory.temp_size_in_bytes < ring_bytes / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--run_dir=DIR is missing"),
        (["--run_dir=nowhere"], "not the directory of a run"),
        (["--run_dir=nowhere", "--episodes=0"], "episodes"),
        (["--run_dir=nowhere", "--record"], "record"),
    ],
)
def test_bad_evaluate_commands(arguments, message, capsys):
    assert evaluate.main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_ctrl_c_leaves_readable_metrics_and_closed_environments(fake_envs, tmp_path, monkeypatch, capsys):
    calls = []

    real_step = FakeEnv.step

    def step(self, action):
        calls.append(1)
        if len(calls) > 60:
            raise KeyboardInterrupt
        return real_step(self, action)

    monkeypatch.setattr(FakeEnv, "step", step)
    monkeypatch.setattr(train, "run", lambda _, run_dir, real=train.run: real(tiny_config(), run_dir))
    arguments = ["train", "--config=configs/rainbow_atari.py", f"--run_dir={tmp_path / 'run'}"]
    assert train.main(arguments) == 130
    assert "interrupted" in capsys.readouterr().err
    assert records(tmp_path / "run")
    assert all(env.closed for env in fake_envs)
