"""Runs of several seeds that are interrupted and go on, all seeds together or one of them alone."""

import json
import re
import shutil
import time

import jax
import numpy as np
import pytest

from seer_jax import evaluate, files, train
from seer_jax.envs import registry
from seer_jax.envs.timestep import EnvironmentFailedError
from seer_jax.run import (
    assembly,
    checkpoint,
    continuation,
    disk,
    evaluation,
    needs,
    plan,
    policy,
    run_dir,
    transfer,
)
from seer_jax.run.loop import RunStopped
from seer_jax.run.resolve import resolve
from seer_jax.run.seed import Keys, configs_of
from seer_jax.run.stepper import Stepper
from seer_jax.seer import handover
from seer_jax.seer.phases import FROZEN, FULL
from tests.helpers.fake_env import FakeEnvs
from tests.helpers.runs import (
    compiled_once,
    contents,
    fake_games,
    kill_at,
    only_error_line,
    records,
    run_killed_after,
    tiny_config,
    untimed,
)
from tests.run.test_seeds import LEARNING

SEEDS = ("seed-5", "seed-6")


@pytest.fixture(autouse=True)
def one_compilation():
    with compiled_once():
        yield


def config_of(total_steps=150, **changes):
    """Two seeds whose episodes have other lengths, so that they wait for each other; they freeze at 100."""
    cadences = {"checkpoint_every": 30, "eval_every": 50, "log_every": 10, "learn_start": 40, "eval_episodes": 1}
    fields = {
        "seed": 5,
        "num_seeds": 2,
        "seer__freeze_step": 100,
        "keep_best": True,
        "params_every": 75,
        "replay__capacity": 60,
        **LEARNING,
    }
    return tiny_config(total_steps=total_steps, replay__grow_after_freeze=False, **cadences | fields | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "run"
    with fake_games(), compiled_once():
        train.run(config_of(), directory)
    return directory


def saved_in(directory):
    """Returns the trees and the rows of the newest checkpoint."""
    newest = checkpoint.newest(directory / checkpoint.DIRECTORY, pytest.fail)
    return files.load_tree(newest.directory), list(files.ChunkStream(newest.directory))


def assert_seeds_equal(found, expected, seeds=SEEDS):
    """The seeds have the same records, training states, rings and files."""
    for name in seeds:
        assert untimed(found / name) == untimed(expected / name)
        jax.tree.map(np.testing.assert_array_equal, saved_in(found / name), saved_in(expected / name))
        for kept in ("checkpoints", "best"):
            there, here = (sorted(path.name for path in (d / name / kept).iterdir()) for d in (expected, found))
            assert here == there
        assert all(list((found / name / directory).iterdir()) for directory in ("params", "tensorboard"))


def resume(directory, **changes):
    return train.run(config_of(**changes), directory, resume=True)


@pytest.mark.parametrize("kill_after", [[10], [45], [65, 20]])
def test_resumed_seeds_equal_those_that_were_not_interrupted(fake_envs, whole, tmp_path, monkeypatch, kill_after):
    """Killed before the first checkpoint, in the full phase, and in the frozen phase."""
    received = []
    for i, steps in enumerate(kill_after):
        run_killed_after(config_of(), tmp_path / "run", steps, monkeypatch, resume=i > 0)
    end = train.run(config_of(), tmp_path / "run", resume=True, receivers=[received.append])
    assert_seeds_equal(tmp_path / "run", whole)
    assert {record["seed"]: record["kind"] for record in received} == {5: "end", 6: "end"}
    assert {seed: record["env_steps"] for seed, record in end["seeds"].items()} == {
        int(name[-1]): records(whole / name)[-1]["env_steps"] for name in SEEDS
    }


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (run_dir, "start", 3),
        (evaluation, "play", 2),
        (checkpoint, "save", 2),
        (checkpoint, "save", 4),
        (checkpoint, "remove_old", 2),
        (handover, "_encode_chunk", 2),
    ],
)
def test_run_killed_with_seeds_in_different_states_resumes_as_if_uninterrupted(
    fake_envs, whole, tmp_path, monkeypatch, owner, name, calls
):
    """Between files of two seeds at the start, between their checkpoints, in an evaluation and in the handover."""
    kill_at(owner, name, calls, monkeypatch, lambda: train.run(config_of(), tmp_path / "run"))
    resume(tmp_path / "run")
    assert_seeds_equal(tmp_path / "run", whole)


def test_seeds_go_back_to_the_newest_checkpoint_that_all_have(fake_envs, whole, tmp_path, capsys):
    """The newest of one is damaged, the one before it is missing for the other."""
    shutil.copytree(whole, tmp_path / "run")
    first, second = (tmp_path / "run" / name / checkpoint.DIRECTORY for name in SEEDS)
    newest = checkpoint.numbers(first)[-1]
    (first / f"{newest:06d}" / "rows-00000.npz").write_bytes(b"")
    resume(tmp_path / "run")
    error = capsys.readouterr().err
    assert f"{newest:06d} holds a damaged rows-00000.npz; all seeds use the one before it" in error
    assert f"seed-6 goes back to its checkpoint {newest - 1}, the newest that all seeds have" in error
    assert_seeds_equal(tmp_path / "run", whole)
    shutil.rmtree(second / f"{newest - 1:06d}")
    (first / f"{newest:06d}" / "rows-00000.npz").write_bytes(b"")
    before = contents(tmp_path / "run")
    assert train.main(["train", f"--run_dir={tmp_path / 'run'}", "--resume"]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert f"continue each alone with --run_dir={tmp_path / 'run'}/seed-N --resume" in line
    assert contents(tmp_path / "run") == before


def test_seeds_that_go_on_longer_equal_those_that_were_to_be_longer_from_the_start(
    fake_envs, whole, tmp_path, monkeypatch, capsys
):
    """The first attempt is killed between the new configurations of the run and of its seeds."""
    short, argument = tmp_path / "run", "--config.total_steps=150"
    train.run(config_of(120, eval_every=60), short)
    command = ["train", f"--run_dir={short}", "--resume", argument, "--config.eval_every=50"]
    kill_at(continuation, "record_changes", 2, monkeypatch, lambda: train.main(command))
    assert train.main(["train", f"--run_dir={short}", "--resume"]) == 0
    for name in SEEDS:
        assert records(short / name)[-1]["env_steps"] >= 150
        (change,) = run_dir.read_manifest(short / name)["changes"]
        assert change["fields"] == {"eval_every": [60, 50], "total_steps": [120, 150]}
        jax.tree.map(np.testing.assert_array_equal, saved_in(short / name), saved_in(whole / name))
    assert resolve(run_dir.read_config(short)) == resolve(config_of())


def test_stopped_run_saves_all_seeds_and_goes_on(fake_envs, tmp_path):
    """It stops while one seed waits for the other: their checkpoints have one number and other agent steps."""
    calls = []
    with pytest.raises(RunStopped):
        train.run(config_of(), tmp_path / "run", stop=lambda: calls.append(1) or len(calls) > 58)
    numbers = [checkpoint.numbers(tmp_path / "run" / name / checkpoint.DIRECTORY) for name in SEEDS]
    assert numbers[0] == numbers[1]
    end = resume(tmp_path / "run")
    assert all(record["phase"] == "frozen" for record in end["seeds"].values())


def test_checkpoint_that_one_seed_has_no_room_for_is_left_out_for_all(fake_envs, tmp_path, monkeypatch, capsys):
    save = checkpoint.save

    def failing(directory, number, **arguments):
        if number == 2 and directory.parent.name == "seed-6":
            raise OSError(28, "No space left on device")
        return save(directory, number, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", failing)
        run_killed_after(config_of(checkpoints_kept=1), tmp_path / "run", 45, monkeypatch)
    assert [checkpoint.numbers(tmp_path / "run" / name / checkpoint.DIRECTORY) for name in SEEDS] == [[1], [1]]
    error = capsys.readouterr().err
    assert error.count("(No space left on device); earlier ones are intact; continue with --run_dir=") == 2
    assert "seed-" not in error


def test_seed_that_goes_on_alone_does_what_it_does_with_the_others(fake_envs, whole, tmp_path, monkeypatch, capsys):
    run_killed_after(config_of(), tmp_path / "run", 45, monkeypatch)
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    alone = tmp_path / "run" / "seed-6"
    assert train.main(["train", f"--run_dir={alone}", "--resume"]) == 0
    kinds = [(line["kind"], line["env_steps"]) for line in records(whole / "seed-6")]
    assert [(line["kind"], line["env_steps"]) for line in records(alone)] == kinds
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)  # noqa: E731
    jax.tree.map(close, saved_in(alone)[0]["train"], saved_in(whole / "seed-6")[0]["train"])
    capsys.readouterr()

    # All together again: its checkpoints of the common number are gone.
    before = contents(tmp_path / "run")
    assert train.main(["train", f"--run_dir={tmp_path / 'run'}", "--resume"]) == 2
    assert "have no checkpoint of the same number" in only_error_line(capsys)
    assert contents(tmp_path / "run") == before

    # They are not: it goes back and does the same again.
    for path in (tmp_path / "other" / "seed-6" / checkpoint.DIRECTORY).glob("[0-9]*"):
        shutil.copytree(path, alone / checkpoint.DIRECTORY / path.name, dirs_exist_ok=True)
    run_killed_after(config_of(), tmp_path / "run", 5, monkeypatch, resume=True)
    assert "seed-6 goes back to its checkpoint 2" in capsys.readouterr().err
    assert checkpoint.numbers(alone / checkpoint.DIRECTORY)[-1] == 2
    resume(tmp_path / "run")
    assert_seeds_equal(tmp_path / "run", whole)


def test_seed_that_went_on_alone_for_longer_is_not_cut_off(fake_envs, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "seed-5" / "config.json").read_text())
    (tmp_path / "run" / "seed-5" / "config.json").write_text(json.dumps(config | {"total_steps": 200}))
    assert train.main(["train", f"--run_dir={tmp_path / 'run'}", "--resume"]) == 2
    message = "seed-5 has gone on alone to total_steps=200, past the 150 of all seeds; add --config.total_steps=200"
    assert message in only_error_line(capsys)


def test_directory_of_something_else_is_not_used_for_seeds(fake_envs, whole, tmp_path, capsys):
    """A seed that was trained alone, and files of the user's."""
    shutil.copytree(whole / "seed-5", tmp_path / "run" / "seed-5")
    for names in ("seed-5", "run"):
        before = contents(tmp_path)
        with pytest.raises(train.ConfigError, match=f"{names} already exists; name a new directory"):
            resume(tmp_path / "run")
        assert contents(tmp_path) == before
        (tmp_path / "run" / "notes").write_text("mine")


def spoil(seed, monkeypatch):
    """Makes the parameters of a seed, numbered from 0 on, not a number after 70 steps."""
    vector_step = Stepper.vector_step

    def step(stepper, steps_of_seeds, **arguments):
        vector_step(stepper, steps_of_seeds, **arguments)
        if seed in stepper._seeds and stepper._seeds[seed].progress.env_steps >= 70:
            spoilt = jax.tree.map(lambda x: x.at[seed].set(np.nan) if x.dtype == np.float32 else x, stepper.state.train)
            stepper.state.train = spoilt

    monkeypatch.setattr(Stepper, "vector_step", step)


def train_command(directory, monkeypatch, *arguments, **changes):
    monkeypatch.setattr(train.cli, "loaded", lambda config: config_of(**changes))
    return train.main(["train", "--config=configs/rainbow_atari.py", f"--run_dir={directory}", *arguments])


def test_seed_that_is_not_finite_stops_alone_and_does_not_harm_the_others(
    fake_envs, whole, tmp_path, monkeypatch, capsys
):
    run, changes = tmp_path / "run", {"on_nan": "stop_seed", "params_every": 10}
    spoil(0, monkeypatch)
    kill_at(handover, "_encode_chunk", 1, monkeypatch, lambda: train_command(run, monkeypatch, **changes))
    error = capsys.readouterr().err
    message = "train: seed 5 stops, and the others go on: a loss or a parameter is not finite after 7"
    assert error.count(message) == error.count("seed 5") == 1
    assert f"the last good checkpoint is {run / 'seed-5' / 'checkpoints' / '000002'}" in error
    stopped = run_dir.read_manifest(run)["stopped_seeds"]
    assert list(stopped) == ["5"]
    assert 70 <= stopped["5"] < 80
    untouched = contents(run / "seed-5")

    assert train_command(run, monkeypatch, "--resume", **changes) == 0
    assert_seeds_equal(run, whole, seeds=["seed-6"])
    assert contents(run / "seed-5") == untouched
    assert "seed 5 stopped" in capsys.readouterr().out
    trees, _ = saved_in(run / "seed-5")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(trees["train"]["params"]))


def test_environment_that_fails_in_one_seed_leaves_checkpoints_of_all(fake_envs, tmp_path, monkeypatch):
    """It fails while the other seed waits for it at an evaluation."""
    step_some, run = FakeEnvs.step_some, tmp_path / "run"

    def failing(envs, action, running):
        if envs.envs[0].steps[0] > 5:
            raise OSError("no such game")
        return step_some(envs, action, running)

    with monkeypatch.context() as patch:
        patch.setattr(FakeEnvs, "step_some", failing)
        with pytest.raises(EnvironmentFailedError):
            train.run(config_of(), run)
    numbers = [checkpoint.numbers(run / name / checkpoint.DIRECTORY) for name in SEEDS]
    assert numbers[0] == numbers[1] != []
    resume(run)


def test_seed_that_is_not_finite_stops_all_with_on_nan_stop(fake_envs, tmp_path, monkeypatch, capsys):
    spoil(1, monkeypatch)
    assert train_command(tmp_path / "run", monkeypatch) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("train: a loss or a parameter is not finite after 7")
    assert "seed-6/checkpoints/000002; lower agent.learning_rate" in line
    assert "end" not in [record["kind"] for name in SEEDS for record in records(tmp_path / "run" / name)]
    assert "stopped_seeds" not in run_dir.read_manifest(tmp_path / "run")


def test_evaluation_of_a_run_plays_each_seed_as_if_it_were_alone(fake_envs, whole, tmp_path, capsys):
    assert evaluate.main(["evaluate", f"--run_dir={whole}"]) == 0
    together = capsys.readouterr().out
    for name in SEEDS:
        assert evaluate.main(["evaluate", f"--run_dir={whole / name}", "--best"]) == 0
        steps = records(whole / name)[-1]["env_steps"]
        assert f"seed {name[-1]}, after {steps} agent steps" in " ".join(together.split())
    assert "score of 2 seeds: " in together


def test_run_of_several_seeds_where_one_is_needed_is_refused_in_one_line(fake_envs, whole, tmp_path, capsys):
    message = f"{whole} holds a run of 2 seeds; name the directory of one of them: seed-5, seed-6"
    with pytest.raises(train.ConfigError, match=re.escape(message)):
        policy.load_policy(whole)
    with pytest.raises(transfer.TransferError, match=re.escape(f"seer.init_from={message}")):
        train.run(config_of(seer__init_from=str(whole)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert evaluate.main(["evaluate", f"--run_dir={whole}", "--video"]) == 2
    assert only_error_line(capsys) == f"evaluate: --video: {message}\n"
    policy.load_policy(whole / "seed-5", best=True)


def test_plan_of_several_seeds_counts_them_all(fake_envs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plan, "_CALIBRATION_SECONDS", 0.05)
    monkeypatch.setenv("COLUMNS", "150")
    config = resolve(config_of())
    plan.show(config, tmp_path / "plan.json")
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "2 seeds of 150 agent steps",
        "agent steps/s, measured, of all seeds",
        "memory and costs of a program are those of one device, with 2 of the seeds",
        "disk of 2 seeds, at most",
    ):
        assert text in shown
    written = json.loads((tmp_path / "plan.json").read_text())
    one, *_ = configs_of(config)
    parts = assembly.assemble(one, fake_envs[0].action_spec)
    assert written["disk_bytes"] == {name: 2 * size for name, size in disk.needed(parts, [FULL, FROZEN]).items()}
    for alone in needs.sizes(parts):
        figures = written["phases"][alone.phase]
        assert figures["replay_bytes"] == 2 * alone.ring_bytes
        assert figures["state_bytes"] == 2 * alone.state_bytes
        assert figures["env_steps"] == alone.env_steps
        assert figures["seconds"] == pytest.approx(2 * alone.env_steps / figures["steps_per_second"])


def test_calibration_steps_and_trains_all_seeds(fake_envs, monkeypatch):
    monkeypatch.setattr(plan, "_CALIBRATION_SECONDS", 0.05)
    config = resolve(config_of())
    env = registry.make_env(config, training=True, pools=[0, 0])
    phase = assembly.assemble(config, env.action_spec).full
    programs, states, stepped = phase.compile(), [], []

    def learn(*args):
        done = programs.learn(*args)
        states.append(np.array(done[0].updates))
        return done

    step = env.step
    monkeypatch.setattr(env, "step", lambda action: stepped.append(1) or step(action))
    began = time.perf_counter()
    rate = plan._steps_per_second(phase, env, programs._replace(learn=learn), [Keys(5), Keys(6)])
    slowest = (len(stepped) - 10) * env.num_envs / (time.perf_counter() - began)
    assert env.num_envs == 4
    assert rate > slowest > 0
    np.testing.assert_array_equal(states[-1], [phase.updates_per_learn() * len(states)] * 2)
