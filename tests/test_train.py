"""Whole runs: on an environment that forces every kind of ending, and on a real game."""

import json
import signal

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import rainbow_atari
from seer_jax import cli, envs, evaluate, train
from seer_jax.run import assembly, checkpoint
from seer_jax.run import resolve as config_lib
from seer_jax.seer import phases
from tests.helpers import fake_env
from tests.helpers.runs import records, run_killed_after, tiny_config, tiny_control_config, untimed, write_run

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


def manifest(run_dir):
    return json.loads((run_dir / "manifest.json").read_text())


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
    # At the freeze every row lives on: steps of two environments, and a final row for each episode; the checkpoint
    # before it ended one in each.
    episodes = 2 + sum(line["kind"] == "episode" for line in lines[: lines.index(freeze)])
    assert freeze["rows_moved"] in range(freeze["env_steps"] + episodes, freeze["env_steps"] + episodes + 3)
    assert end["replay_size"] > freeze["rows_moved"]
    assert end["replay_capacity"] == 300 * 42 * 42 // (4 * 64) // 2 * 2
    assert end["frozen_flops_per_step"] < end["full_flops_per_step"]
    flops = [line["flops_total"] for line in lines]
    assert flops == sorted(flops)
    assert all(env.closed for env in fake_envs)

    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["env"]["task"] == "krull"
    assert manifest(tmp_path / "run")["seed"] == 0
    assert manifest(tmp_path / "run")["arguments"] == []
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    saved, progress = checkpoint.load_newest_state(tmp_path / "run" / "checkpoints")
    assert progress["env_steps"] == end["env_steps"]
    assert end["params_sha256"] == checkpoint.params_sha256(saved["train"]["params"])
    before = checkpoint.load_state(tmp_path / "run" / "checkpoints" / "freeze")
    jax.tree.map(np.testing.assert_array_equal, saved["train"]["params"]["encoder"], before["params"]["encoder"])


def test_episode_records_hold_raw_scores(fake_envs, tmp_path):
    train.run(tiny_config(total_steps=200, seer__enabled=False), tmp_path / "run")
    episodes = [line for line in records(tmp_path / "run") if line["kind"] == "episode"]
    assert {line["length"] for line in episodes} == {7, 12}
    assert all(line["return"] == 10 * line["length"] for line in episodes)


@pytest.mark.parametrize(("num_envs", "update_every", "updates"), [(1, 1, 120), (4, 2, 60), (2, 4, 30)])
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

    def __contains__(self, name):
        return name in self._config

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
    saved = checkpoint.load_newest_state(run_dir / "checkpoints")[0]["train"]["params"]
    at_freeze = checkpoint.load_state(run_dir / "checkpoints" / "freeze")["params"]
    jax.tree.map(np.testing.assert_array_equal, seen[0], saved)
    jax.tree.map(np.testing.assert_array_equal, seen[0]["encoder"], at_freeze["encoder"])
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), seen[0]["heads"], at_freeze["heads"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("damaged", ["config.json", "checkpoints/000001/state.msgpack"])
def test_a_damaged_run_is_told_in_one_line(tmp_path, capsys, damaged):
    write_run(tmp_path, tiny_config())
    whole = (tmp_path / damaged).read_bytes()
    (tmp_path / damaged).write_bytes(whole[: len(whole) // 2])
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "damaged" in error or "can be read" in error
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def control_run(tmp_path_factory):
    """CURL-SAC on a real task with real rendering, through the freeze."""
    if not envs.HAS_EGL:
        pytest.skip("this machine has no EGL to render with")
    run_dir = tmp_path_factory.mktemp("control") / "run"
    return run_dir, train.run(tiny_control_config(), run_dir)


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
    assert {r["length"] for r in lines if r["kind"] == "episode"} == {20}
    assert end["eval_length_mean"] == 20
    before = checkpoint.load_state(run_dir / "checkpoints" / "freeze")["params"]
    after = checkpoint.load_newest_state(run_dir / "checkpoints")[0]["train"]["params"]
    for part in ("encoder", "actor_encoder"):
        jax.tree.map(np.testing.assert_array_equal, after[part], before[part])


def test_a_resumed_control_task_is_the_uninterrupted_one(control_run, tmp_path, monkeypatch):
    """From a checkpoint before the freeze; `tests/test_resume.py` has those after it."""
    run_killed_after(tiny_control_config(), tmp_path / "run", 35, monkeypatch)
    train.run(tiny_control_config(), tmp_path / "run", resume=True)
    assert untimed(tmp_path / "run") == untimed(control_run[0])


def test_evaluating_a_control_task_writes_a_video_in_colour(control_run, capsys):
    run_dir = control_run[0]
    assert evaluate.main(["evaluate", f"--run_dir={run_dir}", "--episodes=1", "--video"]) == 0
    assert "human-normalized" not in capsys.readouterr().out
    video = iio.imread(run_dir / "videos" / "episode.mp4")
    assert video.shape == (20, 136, 136, 3)
    assert np.ptp(video.astype(int), axis=-1).max() > 30


def test_a_run_cannot_make_evaluate_import_code(tmp_path, capsys):
    write_run(tmp_path, tiny_config())
    config = json.loads((tmp_path / "config.json").read_text())
    config["encoder"]["name"] = "haiku:nothing.at.all:encoder"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path}"]) == 2
    assert "if you trust it" in capsys.readouterr().err
    for name, message in (("haiku:nothing.at.all:encoder", "cannot be imported"), ("haiku:other:f", "if you trust it")):
        trusted = ["--config=configs/rainbow_atari.py", f"--config.encoder.name={name}"]
        assert evaluate.main(["evaluate", f"--run_dir={tmp_path}", *trusted]) == 2
        assert message in capsys.readouterr().err


def test_a_run_of_an_agent_that_is_not_known_wants_its_configuration_file(tmp_path, capsys):
    write_run(tmp_path, tiny_config())
    config = json.loads((tmp_path / "config.json").read_text())
    config["agent"]["name"] = "mine"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path}"]) == 2
    assert "runs code of yours, agent.name=mine; if you trust it" in capsys.readouterr().err
    assert evaluate.main(["evaluate", f"--run_dir={tmp_path}", "--config=configs/rainbow_atari.py"]) == 2
    assert "agent.name='mine' is unknown" in capsys.readouterr().err


def test_logging_at_every_step_and_many_environments(fake_envs, tmp_path):
    train.run(tiny_config(log_every=1, num_envs=4, total_steps=120, seer__freeze_step=100), tmp_path / "run")
    assert len([line for line in records(tmp_path / "run") if line["kind"] == "train"]) >= 30


def test_the_guard_of_the_runs_here_sees_accidental_transfers():
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match=r"[Dd]isallowed"):
        jnp.add(np.ones(3), 1)


@pytest.mark.parametrize("prioritized", [False, True])
def test_programs_own_their_buffers(prioritized):
    """Neither program of either phase copies the ring: outputs alias inputs, temporaries are smaller."""
    config = tiny_config(replay__prioritized=prioritized, replay__capacity=40_000, replay__grow_after_freeze=False)
    config.update_from_flattened_dict({"seer.freeze_step": 4000, "total_steps": 4100})
    config = config_lib.resolve(config)
    parts = assembly.assemble(config, fake_env.make_env(config, training=True).action_spec)
    for phase in (phases.FULL, phases.FROZEN):
        programs, ring_bytes = parts.compile(phase), parts.ring(phase).num_bytes
        for program in (programs.interact, programs.learn):
            memory = program.memory_analysis()
            assert memory.alias_size_in_bytes >= ring_bytes
            assert memory.temp_size_in_bytes < ring_bytes / 2


def test_copies_of_the_parameters_stay(fake_envs, tmp_path):
    train.run(tiny_config(params_every=150), tmp_path / "run")
    copies = sorted((tmp_path / "run" / "params").iterdir())
    assert [int(copy.name) // 10 for copy in copies] == [0, 15, 30]
    encoders = [checkpoint.load_state(copy)["params"]["encoder"] for copy in copies]
    assert set(encoders[0]) == {"conv1", "conv2"}
    same = [
        all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))
        for one, other in zip(
            encoders,
            [
                *encoders[1:],
                checkpoint.load_newest_state(tmp_path / "run" / checkpoint.DIRECTORY)[0]["train"]["params"]["encoder"],
            ],
            strict=True,
        )
    ]
    assert same == [False, False, True]  # learned until the freeze at 200, and no more


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(fake_envs, tmp_path, monkeypatch, capsys, number, code):
    real_step, calls = fake_env.FakeEnv.step, []

    def step(self, action):
        calls.append(1)
        if len(calls) == 60:
            signal.raise_signal(number)
        return real_step(self, action)

    monkeypatch.setattr(fake_env.FakeEnv, "step", step)
    monkeypatch.setattr(config_lib, "resolve", lambda config, real=config_lib.resolve: real(tiny_config()))
    run_dir = tmp_path / "run"
    where = [f"--run_dir={run_dir}"]
    assert train.main(["train", "--config", "configs/rainbow_atari.py:quick", "--config.seed=3", *where]) == code
    assert f"go on with --run_dir={run_dir} --resume" in capsys.readouterr().err
    assert manifest(run_dir)["arguments"] == ["--config=configs/rainbow_atari.py:quick", "--config.seed=3"]
    assert records(run_dir)[-1]["kind"] == "checkpoint"
    assert all(env.closed for env in fake_envs)
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    assert train.main(["train", "--resume", *where]) == 0
    assert records(run_dir)[-1]["env_steps"] >= 400


@pytest.mark.parametrize(("checkpoint_every", "warned"), [(0, False), (1999, True), (2000, False)])
def test_environments_that_live_shorter_than_episodes_are_told(capsys, checkpoint_every, warned):
    train._warn_of_short_lives(tiny_config(checkpoint_every=checkpoint_every, num_envs=2))
    assert ("made anew" in capsys.readouterr().err) == warned


def test_a_second_signal_ends_at_once():
    with cli.signals() as received:
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL
