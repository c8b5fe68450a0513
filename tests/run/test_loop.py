"""Whole runs: on environments that force every kind of ending, on a real game and on a real Control task."""

import itertools
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import rainbow_atari
from seer_jax import envs, files, train
from seer_jax.envs import timestep
from seer_jax.run import checkpoint, run_dir
from seer_jax.run.loop import NonFiniteError
from seer_jax.run.resolve import flat, resolve
from seer_jax.run.stepper import Stepper
from seer_jax.seer.phases import Phase
from tests.helpers import events
from tests.helpers.fake_env import FakeEnv
from tests.helpers.runs import (
    compiled_once,
    fake_games,
    records,
    run_killed_after,
    tiny_config,
    tiny_control_config,
    untimed,
)

KINDS = {"train", "episode", "eval", "freeze", "checkpoint", "end"}
COMMON = {
    "kind",
    "env_steps",
    "frames",
    "updates",
    "seconds",
    "phase",
    "flops_total",
    "macs_total",
    "replay_bytes",
    "replay_capacity",
    "replay_size",
}


class Finished(NamedTuple):
    """A run that ended, and what was seen of it."""

    directory: Any
    end: dict
    lines: list
    received: list  # by a receiver
    compiled: list  # phases, in the order of their compilation
    envs: list

    def of_kind(self, kind):
        return [line for line in self.lines if line["kind"] == kind]


@pytest.fixture
def one_compilation():
    with compiled_once():
        yield


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """From frames to latents, with copies of the parameters."""
    directory = tmp_path_factory.mktemp("tiny") / "run"
    compiled, received, compile_phase = [], [], Phase.compile

    def counted(phase):
        compiled.append(phase.name)
        return compile_phase(phase)

    with fake_games() as made, compiled_once(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Phase, "compile", counted)
        end = train.run(tiny_config(params_every=150), directory, receivers=[received.append])
    return Finished(directory, end, records(directory), received, compiled, made)


def test_run_through_the_freeze_writes_records_of_every_kind_with_the_common_fields(tiny_run):
    assert {line["kind"] for line in tiny_run.lines} == KINDS
    assert all(set(line) >= COMMON for line in tiny_run.lines)
    assert tiny_run.end == tiny_run.lines[-1]
    for name in ("flops_total", "macs_total", "env_steps", "updates"):
        values = [line[name] for line in tiny_run.lines]
        assert values == sorted(values)


def test_receivers_of_a_run_get_every_record_in_the_order_of_the_file(tiny_run):
    assert len(tiny_run.received) > 50
    assert tiny_run.received == tiny_run.lines


def test_each_phase_is_compiled_once(tiny_run):
    assert tiny_run.compiled == ["full", "frozen"]


def test_run_makes_one_update_for_each_agent_step_after_learning_starts(tiny_run):
    end = tiny_run.end
    assert 400 <= end["env_steps"] <= 401
    assert end["updates"] in (end["env_steps"] - 80, end["env_steps"] - 81)


def test_freeze_keeps_every_row_and_the_ring_grows_after_it(tiny_run):
    (freeze,) = tiny_run.of_kind("freeze")
    assert 200 <= freeze["env_steps"] <= 201
    # Steps of two environments, and a final row for each episode; the checkpoint before it ended one in each.
    before = tiny_run.lines[: tiny_run.lines.index(freeze)]
    episodes = 2 + sum(line["kind"] == "episode" for line in before)
    assert freeze["rows_moved"] in range(freeze["env_steps"] + episodes, freeze["env_steps"] + episodes + 3)
    assert tiny_run.end["replay_size"] > freeze["rows_moved"]
    assert tiny_run.end["replay_capacity"] == 2 * 400 + 10 * 2  # all that the run can fill, less than fits
    assert tiny_run.end["frozen_flops_per_step"] < tiny_run.end["full_flops_per_step"]


def test_run_leaves_configuration_manifest_and_no_open_environment(tiny_run):
    directory = tiny_run.directory
    assert json.loads((directory / "config.json").read_text())["env"]["task"] == "krull"
    assert run_dir.read_manifest(directory)["seed"] == 0
    assert run_dir.read_manifest(directory)["arguments"] == []
    assert all(env.closed for env in tiny_run.envs)


def test_events_of_a_run_hold_each_number_under_one_tag_and_its_hyperparameters(tiny_run):
    shown, hparams = events.read(tiny_run.directory / "tensorboard")
    tags = {tag for tag, _ in shown}
    assert len(tags) < 45
    assert tags >= {"train/loss", "eval/return_mean", "replay/size", "cost/flops_total", "speed/steps_per_second"}
    assert not [name for name in {tag.partition("/")[2] for tag in tags} if name.startswith(("eval_", "replay_size"))]
    losses = {line["env_steps"]: line["loss"] for line in tiny_run.of_kind("train") if "loss" in line}
    assert {step: value for (tag, step), value in shown.items() if tag == "train/loss"} == pytest.approx(losses)
    assert (hparams["seer.freeze_step"], hparams["env.task"], hparams["seer.enabled"]) == (200.0, "krull", True)


def test_last_checkpoint_holds_the_parameters_of_the_end_and_the_encoder_of_the_freeze(tiny_run):
    saved, progress = checkpoint.load_newest_state(tiny_run.directory / "checkpoints")
    params = saved["train"]["params"]
    assert progress["env_steps"] == tiny_run.end["env_steps"]
    assert tiny_run.end["params_sha256"] == checkpoint.params_sha256(params)
    before = files.load_tree(tiny_run.directory / "checkpoints" / "freeze")["params"]
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], before["encoder"])
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), params["heads"], before["heads"])
    assert all(jax.tree.leaves(moved))


def test_episode_records_hold_raw_scores(tiny_run):
    episodes = tiny_run.of_kind("episode")
    assert {line["length"] for line in episodes} == {7, 12}
    assert all(line["return"] == 10 * line["length"] for line in episodes)


def test_copies_of_the_parameters_stay_and_the_encoder_changes_until_the_freeze_alone(tiny_run):
    copies = sorted((tiny_run.directory / "params").iterdir())
    assert [int(copy.name) // 10 for copy in copies] == [0, 15, 30]
    encoders = [files.load_tree(copy)["params"]["encoder"] for copy in copies]
    assert set(encoders[0]) == {"conv1", "conv2"}
    last, _ = checkpoint.load_newest_state(tiny_run.directory / checkpoint.DIRECTORY)
    encoders.append(last["train"]["params"]["encoder"])
    same = [
        all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other))) for one, other in itertools.pairwise(encoders)
    ]
    assert same == [False, False, True]  # the encoder freezes at 200


def test_equal_seeds_give_equal_runs_and_another_seed_does_not(tiny_run, fake_envs, one_compilation, tmp_path):
    train.run(tiny_config(params_every=150), tmp_path / "again")
    train.run(tiny_config(seed=2), tmp_path / "other")
    assert untimed(tmp_path / "again") == untimed(tiny_run.directory)

    def losses(directory):
        lines = [line for line in records(directory) if line["kind"] == "train" and "loss" in line]
        assert len(lines) >= 6
        return {line["loss"] for line in lines}

    assert not losses(tmp_path / "other") & losses(tiny_run.directory)


def test_run_without_seer_never_freezes(fake_envs, tmp_path):
    end = train.run(tiny_config(total_steps=200, seer__enabled=False, seer__replay_ratio=4.0), tmp_path / "run")
    assert end["updates"] == end["env_steps"] - 80
    assert end["phase"] == "full"
    assert end["replay_capacity"] == 300
    assert "frozen_flops_per_step" not in end
    assert not [line for line in records(tmp_path / "run") if line["kind"] == "freeze"]
    assert not (tmp_path / "run" / "checkpoints" / "freeze").exists()


def test_run_of_many_environments_can_log_at_every_step(fake_envs, tmp_path):
    config = tiny_config(log_every=1, num_envs=4, replay_ratio=0.5, total_steps=200, seer__freeze_step=140)
    end = train.run(config, tmp_path / "run")
    assert end["phase"] == "frozen"
    assert end["updates"] == (end["env_steps"] - 80) // 2
    assert len([line for line in records(tmp_path / "run") if line["kind"] == "train"]) >= 50


def test_without_checkpoints_environments_are_never_rebuilt(fake_envs, one_compilation, tmp_path):
    train.run(tiny_config(checkpoint_every=0, eval_every=1000), tmp_path / "run")
    assert len(fake_envs) == 2  # one to train in, one for the final evaluation
    assert [line["kind"] for line in records(tmp_path / "run")].count("checkpoint") == 1


def test_transfer_guard_of_these_runs_detects_implicit_transfers():
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match=r"[Dd]isallowed"):
        jnp.add(np.ones(3), 1)


@pytest.mark.parametrize(("on_nan", "stops"), [("stop", True), ("stop_seed", True), ("ignore", False)])
def test_non_finite_parameters_stop_a_run_unless_they_are_ignored(
    fake_envs, one_compilation, tmp_path, monkeypatch, on_nan, stops
):
    vector_step = Stepper.vector_step

    def step(stepper, steps_of_seeds, **arguments):
        vector_step(stepper, steps_of_seeds, **arguments)
        if stepper._seeds[0].progress.env_steps >= 170 and stepper._seeds[0].progress.phase == "full":
            train_state = stepper.state.train
            stepper.state.train = jax.tree.map(lambda x: x * np.nan if x.dtype == np.float32 else x, train_state)

    monkeypatch.setattr(Stepper, "vector_step", step)
    config = tiny_config(on_nan=on_nan, checkpoint_every=60)
    if not stops:
        end = train.run(config, tmp_path / "run")
        assert end["env_steps"] >= 400
        assert [line for line in records(tmp_path / "run") if line["kind"] == "train"][-1]["loss"] is None
        return
    with pytest.raises(NonFiniteError, match=r"not finite after 1[78]\d agent steps; .*checkpoints/000002; lower"):
        train.run(config, tmp_path / "run")
    saved, _ = checkpoint.load_newest_state(tmp_path / "run" / checkpoint.DIRECTORY)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved["train"]["params"]))


@pytest.mark.parametrize(("field", "value"), [("reward", np.nan), ("reward", np.inf), ("frame", 0.5)])
def test_invalid_timestep_ends_a_run(fake_envs, one_compilation, tmp_path, monkeypatch, field, value):
    real_step = FakeEnv.step

    def step(self, action):
        sent = real_step(self, action)
        return sent._replace(**{field: getattr(sent, field) * np.float32(value)}) if self.steps[0] == 20 else sent

    monkeypatch.setattr(FakeEnv, "step", step)
    with pytest.raises(timestep.InvalidTimeStepError, match=field):
        train.run(tiny_config(), tmp_path / "run")
    assert all(env.closed for env in fake_envs)


def recording(section, read, prefix=""):
    """Returns an equal section of a configuration that adds the names of the fields that are read to `read`."""
    names = vars(section).keys()

    class Recording(type(section)):
        def __getattribute__(self, name):
            value = super().__getattribute__(name)
            if name in names and not hasattr(value, "__dict__"):
                read.add(f"{prefix}{name}")
            return value

        def to_dict(self):
            return section.to_dict()

    copy = object.__new__(Recording)
    for name, value in vars(section).items():
        held = recording(value, read, f"{prefix}{name}.") if hasattr(value, "__dict__") else value
        object.__setattr__(copy, name, held)
    return copy


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    """A real game through the freeze, and the fields of the configuration that the run read."""
    read, directory = set(), tmp_path_factory.mktemp("real") / "run"
    config = resolve(tiny_config(env__task="krull", env__max_episode_steps=60))
    end = train.run(recording(config, read), directory)
    return directory, end, read


def test_real_game_is_trained_and_evaluated_through_the_freeze(real_run):
    directory, end, _ = real_run
    assert end["phase"] == "frozen"
    assert end["eval_return_mean"] >= 0
    assert end["human_normalized"] is None  # its episodes are cut short
    evals = [line for line in records(directory) if line["kind"] == "eval"]
    assert [len(line["eval_returns"]) for line in evals] == [2, 2]
    assert all(line["eval_length_mean"] <= 60 for line in evals)


def test_run_reads_every_field_of_the_configuration(real_run):
    # The check before the run is what reads whether memory may grow.
    assert set(flat(rainbow_atari.get_config().to_dict())) - real_run[2] == {"replay.allow_more_memory"}


@pytest.fixture(scope="module")
def control_run(tmp_path_factory):
    """CURL-SAC on a real task with real rendering, through the freeze."""
    if not envs.HAS_EGL:
        pytest.skip("this machine has no EGL to render with")
    directory = tmp_path_factory.mktemp("control") / "run"
    with compiled_once():
        return directory, train.run(tiny_control_config(), directory)


def test_real_control_task_is_trained_through_the_freeze(control_run):
    directory, end = control_run
    assert end["phase"] == "frozen"
    assert end["env_steps"] - 42 <= end["updates"] <= end["env_steps"] - 40
    assert end["replay_capacity"] == 34 * 34 * 3 * 100 // (4 * 4 * 2 * 50) // 2 * 2
    lines = records(directory)
    assert {line["kind"] for line in lines} == KINDS
    full, frozen = ([r for r in lines if r["kind"] == "train" and r["phase"] == p][-1] for p in ("full", "frozen"))
    assert {"critic_loss", "contrast_loss", "actor_loss", "temperature"} <= set(full)
    assert "contrast_loss" not in frozen
    assert {r["length"] for r in lines if r["kind"] == "episode"} == {20}
    assert end["eval_length_mean"] == 20
    before = files.load_tree(directory / "checkpoints" / "freeze")["params"]
    after = checkpoint.load_newest_state(directory / "checkpoints")[0]["train"]["params"]
    for part in ("encoder", "actor_encoder"):
        jax.tree.map(np.testing.assert_array_equal, after[part], before[part])


def test_resumed_control_task_equals_the_uninterrupted_one(control_run, one_compilation, tmp_path, monkeypatch):
    """From a checkpoint before the freeze; `test_resume.py` resumes games after it, too."""
    run_killed_after(tiny_control_config(), tmp_path / "run", 35, monkeypatch)
    train.run(tiny_control_config(), tmp_path / "run", resume=True)
    assert untimed(tmp_path / "run") == untimed(control_run[0])
