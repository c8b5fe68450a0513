"""Forks: each equals, bit for bit, the run that had its values from the start."""

import functools
import itertools
import json
import os
import pathlib
import shutil

import pytest

from seer_jax import files, train
from seer_jax.fields import ConfigError
from seer_jax.run import checkpoint, fork, run_dir
from seer_jax.run.resolve import resolve
from seer_jax.run.seed import PARAMS_DIRECTORY
from seer_jax.run.stepper import Stepper
from tests.helpers.runs import (
    assert_runs_equal,
    compiled_once,
    contents,
    fake_games,
    kill_at,
    only_error_line,
    records,
    run_killed_after,
    tiny_config,
    tiny_control_config,
    untimed,
)

CADENCES = {"checkpoint_every": 0, "log_every": 20, "eval_every": 100, "params_every": 60, "keep_best": True}
SETTINGS = {
    "rainbow": functools.partial(tiny_config, total_steps=280, seer__freeze_step=160, checkpoint_at=(100, 160, 220)),
    "rainbow prioritized": functools.partial(
        tiny_config, total_steps=280, seer__freeze_step=160, checkpoint_at=(100, 160, 220), replay__prioritized=True
    ),
    "curl": functools.partial(tiny_control_config, total_steps=140, seer__freeze_step=80, checkpoint_at=(50, 80, 110)),
}
# For each agent a checkpoint in the full phase, at the freeze and in the frozen phase, and what differs.
FULL, AT_FREEZE, FROZEN = range(3)
FORKS = {
    "freeze at the fork": (FULL, {"seer.freeze_step": 0.0}),
    "later freeze and longer run": (FULL, {"seer.freeze_step": 1.2, "total_steps": 1.3}),
    "longer frozen phase": (FROZEN, {"total_steps": 1.3}),
    "earlier freeze": (FULL, {"seer.freeze_step": 0.9}),
    "no freeze": (AT_FREEZE, {"seer.enabled": False}),
    "other latents": (AT_FREEZE, {"replay.latent_dtype": "bfloat16", "seer.sync_target_heads": True}),
    "latents in as many rows as frames": (AT_FREEZE, {"replay.grow_after_freeze": False}),
    "larger rings": (AT_FREEZE, {"replay.capacity": 2.0}),
}


@pytest.fixture(autouse=True)
def one_compilation():
    with compiled_once():
        yield


def config_of(setting, **changes):
    # Smaller than the rows of the full phase: image rings have one size, with which XLA adds in one order. Some of them
    # have overwritten rows when they are forked.
    capacity = 100 if setting == "curl" else 200
    return SETTINGS[setting](**CADENCES | {"replay__capacity": capacity} | changes)


def forked(setting, name):
    """Returns the agent steps of a fork, and its configuration."""
    config = config_of(setting)
    number, changes = FORKS[name]
    step = config.checkpoint_at[number]
    for field, value in changes.items():
        if isinstance(value, float):  # a share of what the trunk has
            section, _, leaf = field.rpartition(".")
            value = int(value * (config[section] if section else config)[leaf]) or step
        config.update_from_flattened_dict({field: value})
    return step, config


@pytest.fixture(scope="module")
def trunks(tmp_path_factory):
    """Returns a function that gives the directory of the trunk of a setting."""

    @functools.cache
    def trunk(setting):
        directory = tmp_path_factory.mktemp("trunk") / "run"
        with fake_games(), compiled_once():
            train.run(config_of(setting), directory)
        return directory

    return trunk


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    """A run like the trunk of "rainbow" that ends after 240 steps."""
    directory = tmp_path_factory.mktemp("direct") / "run"
    with fake_games(), compiled_once():
        train.run(config_of("rainbow", total_steps=240), directory)
    return directory


def test_checkpoints_to_fork_from_stay_on_the_disk(trunks):
    for setting in SETTINGS:
        directory = trunks(setting) / checkpoint.DIRECTORY
        steps = [checkpoint.steps(directory, number) for number in checkpoint.numbers(directory)]
        wanted = [*config_of(setting).checkpoint_at, config_of(setting).total_steps]
        assert len(steps) == len(wanted)
        assert all(want <= found < want + 2 for want, found in zip(wanted, steps, strict=True))


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        *itertools.product(SETTINGS, ["freeze at the fork", "later freeze and longer run", "longer frozen phase"]),
        *itertools.product(["rainbow prioritized"], [*FORKS][3:]),
    ],
)
def test_fork_equals_the_run_that_had_its_values_from_the_start(fake_envs, trunks, tmp_path, setting, name):
    trunk = trunks(setting)
    before = contents(trunk)
    step, config = forked(setting, name)
    train.run(config, tmp_path / "fork", fork=f"{trunk}@{step}")
    train.run(config, tmp_path / "direct")
    assert_runs_equal(tmp_path / "fork", tmp_path / "direct")
    assert contents(trunk) == before
    copies = [{p.name for p in (tmp_path / each / PARAMS_DIRECTORY).iterdir()} for each in ("fork", "direct")]
    assert copies[0] == copies[1]
    best = [{p.name for p in (tmp_path / each / "best").iterdir()} for each in ("fork", "direct")]
    assert best[0] == best[1] != set()


def test_fork_differs_from_its_trunk_after_the_fork_only(fake_envs, trunks, tmp_path):
    trunk = trunks("rainbow")
    config = config_of("rainbow", agent__learning_rate=0.01)
    train.run(config, tmp_path / "fork", fork=f"{trunk}@160")
    ours, theirs = (
        {line["env_steps"]: line["loss"] for line in records(each) if line["kind"] == "train" and "loss" in line}
        for each in (tmp_path / "fork", trunk)
    )
    assert ours.keys() == theirs.keys()
    assert {step: ours[step] == theirs[step] for step in ours} == {step: step < 161 for step in ours}
    origin = run_dir.read_manifest(tmp_path / "fork")["fork"]
    manifest = trunk / checkpoint.DIRECTORY / "000002" / "manifest.json"
    assert origin["sha256"] == files.checksum(manifest)
    assert (origin["trunk"], origin["env_steps"], origin["checkpoint"]) == (str(trunk), 160, "000002")


def test_fork_of_a_fork_equals_the_run_that_had_its_values_from_the_start(fake_envs, trunks, tmp_path):
    first = config_of("rainbow", seer__freeze_step=220)
    train.run(first, tmp_path / "first", fork=f"{trunks('rainbow')}@100")
    second = config_of("rainbow", seer__freeze_step=180)
    train.run(second, tmp_path / "second", fork=f"{tmp_path / 'first'}@160")
    train.run(second, tmp_path / "direct")
    assert_runs_equal(tmp_path / "second", tmp_path / "direct")


@pytest.mark.parametrize("kill_after", [65, 100])
def test_killed_trunk_and_killed_fork_make_the_same_fork(fake_envs, tmp_path, monkeypatch, kill_after):
    """Both are killed in the full phase or in the frozen phase, and resumed."""
    run_killed_after(config_of("rainbow"), tmp_path / "trunk", kill_after, monkeypatch)
    train.run(config_of("rainbow"), tmp_path / "trunk", resume=True)
    config = config_of("rainbow", seer__freeze_step=140)
    run_fork = functools.partial(train.run, config, tmp_path / "fork", fork=f"{tmp_path / 'trunk'}@100", resume=True)
    kill_at(Stepper, "vector_step", 40, monkeypatch, run_fork)
    run_fork()
    train.run(config, tmp_path / "direct")
    assert_runs_equal(tmp_path / "fork", tmp_path / "direct")


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (files, "write_file", 1),
        (files, "write_file", 2),
        (files, "link_tree", 1),
        (files, "link_tree", 3),
        (files, "link_tree", 4),
        (pathlib.Path, "hardlink_to", 4),
        (checkpoint, "_save", 1),
        (files, "write_file", 3),
        (files, "write_file", 4),
    ],
)
def test_fork_that_was_killed_before_it_began_can_begin_again(
    fake_envs, trunks, direct, tmp_path, monkeypatch, owner, name, calls
):
    config = config_of("rainbow", total_steps=240)
    run_fork = functools.partial(train.run, config, tmp_path / "fork", fork=f"{trunks('rainbow')}@160", resume=True)
    kill_at(owner, name, calls, monkeypatch, run_fork)
    run_fork()
    assert_runs_equal(tmp_path / "fork", direct)
    assert not [*(tmp_path / "fork").rglob(f"*{files.PARTIAL}")]


def test_fork_on_another_file_system_copies_what_it_cannot_link(fake_envs, trunks, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(18, os.strerror(18))

    config = config_of("rainbow", total_steps=240)
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "hardlink_to", refuse)
        train.run(config, tmp_path / "copied", fork=f"{trunks('rainbow')}@160")
    train.run(config, tmp_path / "linked", fork=f"{trunks('rainbow')}@160")
    assert_runs_equal(tmp_path / "copied", tmp_path / "linked")
    trees = [tmp_path / each / checkpoint.DIRECTORY / "000002" / files.TREE_FILE for each in ("copied", "linked")]
    assert [os.stat(each).st_nlink > 1 for each in trees] == [False, True]


def test_full_disk_leaves_no_part_of_a_fork(fake_envs, trunks, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(files, "link_tree", fail)
    with pytest.raises(ConfigError, match="No space left on device"):
        train.run(config_of("rainbow"), tmp_path / "fork", fork=f"{trunks('rainbow')}@160")
    assert contents(tmp_path / "fork") == {}


def test_other_replay_ratio_and_resets_begin_at_the_fork(fake_envs, trunks, tmp_path):
    trunk, changes = trunks("rainbow"), {"replay_ratio": 0.25, "agent__reset_heads_every": 15}
    train.run(config_of("rainbow", **changes), tmp_path / "fewer", fork=f"{trunk}@160")
    at = checkpoint.read(trunk / checkpoint.DIRECTORY, 2).progress
    end = records(tmp_path / "fewer")[-1]
    assert end["updates"] - at["updates"] == (end["env_steps"] - at["env_steps"]) // 4
    assert end["updates"] > at["updates"] + 20
    resets = [record["updates"] for record in records(tmp_path / "fewer") if record["kind"] == "reset"]
    assert resets == [*range(at["updates"], end["updates"] + 1, 15)][1:]


def test_seeds_of_one_process_are_forked_together_and_alone(fake_envs, tmp_path, monkeypatch):
    """The fork is killed between the directories of its seeds, and begins again."""
    seeds = {"num_seeds": 2, "seed": 5, "total_steps": 180}
    train.run(config_of("rainbow", **seeds, seer__freeze_step=150), tmp_path / "trunk")
    config = config_of("rainbow", **seeds, seer__freeze_step=120)
    run_fork = functools.partial(train.run, config, tmp_path / "fork", fork=f"{tmp_path / 'trunk'}@100", resume=True)
    kill_at(fork, "start", 2, monkeypatch, run_fork)
    assert not run_dir.is_started(tmp_path / "fork")
    run_fork()
    train.run(config, tmp_path / "direct")
    for name in ("seed-5", "seed-6"):
        assert_runs_equal(tmp_path / "fork" / name, tmp_path / "direct" / name)
    alone = config_of("rainbow", seer__freeze_step=120, seed=6, total_steps=180)
    train.run(alone, tmp_path / "alone", fork=f"{tmp_path / 'trunk' / 'seed-6'}@100")
    end, expected = (untimed(tmp_path / each)[-1] for each in ("alone", "direct/seed-6"))
    assert (end["env_steps"], end["updates"]) == (expected["env_steps"], expected["updates"])


@pytest.mark.parametrize(
    ("step", "arguments", "message"),
    [
        ("@100", ["seed=1"], "another configuration (seed=0 there and 1 here); a fork may differ in total_steps,"),
        ("@100", ["env.task=qbert"], "env.task=krull there and qbert here"),
        ("@100", ["agent.hidden=16"], "agent.hidden=8 there and 16 here"),
        ("@220", ["seer.freeze_step=200"], "a fork of a frozen encoder may differ in total_steps"),
        ("@160", ["seer.freeze_step=120"], "is too early for --fork="),
        ("@220", ["total_steps=200"], "total_steps=200 is not past the 220 agent steps"),
        (
            "@120",
            [],
            "has no checkpoint after 120 agent steps; there is one after each of 100, 160, 220, 280 steps",
        ),
        ("@soon", [], "is not RUN_DIR or RUN_DIR@STEP, with STEP in agent steps"),
        (
            "@160",
            ["replay.capacity=120"],
            "one of the two may already have overwritten rows; choose",
        ),
    ],
)
def test_what_lies_behind_the_fork_is_refused_in_one_line(
    fake_envs, trunks, tmp_path, capsys, step, arguments, message
):
    trunk = trunks("rainbow")
    before, overrides = contents(trunk), [f"--config.{argument}" for argument in arguments]
    capsys.readouterr()
    assert train.main(["train", f"--fork={trunk}{step}", f"--run_dir={tmp_path / 'fork'}", *overrides]) == 2
    assert message in only_error_line(capsys)
    assert not (tmp_path / "fork").exists()
    assert contents(trunk) == before


def test_command_line_forks_and_continues_a_fork(fake_envs, trunks, tmp_path, capsys):
    trunk, directory = trunks("rainbow"), tmp_path / "fork"
    command = ["train", f"--fork={trunk}@160", f"--run_dir={directory}", "--config.total_steps=200"]
    command.append("--config.checkpoint_at=100,160,180")
    assert train.main(command) == 0
    assert f"forks {trunk} after 160 steps with checkpoint_at=[100, 160, 180] (was [100" in capsys.readouterr().err
    assert run_dir.read_manifest(directory)["arguments"] == [command[1], *command[3:]]
    assert resolve(run_dir.read_config(directory)).checkpoint_at == (100, 160, 180)
    numbers = checkpoint.numbers(directory / checkpoint.DIRECTORY)
    assert [checkpoint.steps(directory / checkpoint.DIRECTORY, number) for number in numbers] == [160, 181, 200]
    before = untimed(directory)
    assert train.main([*command, "--resume"]) == 0
    assert untimed(directory) == before
    capsys.readouterr()
    assert train.main([*command[:1], f"--fork={tmp_path / 'other'}", *command[2:], "--resume"]) == 2
    assert "holds no fork of" in only_error_line(capsys)
    assert train.main(["train", f"--fork={trunk}@100", *command[2:], "--resume"]) == 2
    assert "holds no fork of" in only_error_line(capsys)
    assert train.main(["train", f"--fork={tmp_path / 'none'}", f"--run_dir={tmp_path / 'new'}"]) == 2
    assert "is not the directory of a run; name one that train made" in only_error_line(capsys)
    assert train.main(["train", f"--fork={trunk}@{'9' * 5000}", f"--run_dir={tmp_path / 'new'}"]) == 2
    assert "is not RUN_DIR or RUN_DIR@STEP" in only_error_line(capsys)
    assert train.main(["train", f"--fork={trunk}", "--plan"]) == 2
    assert "--plan plans a whole run; leave out --fork" in only_error_line(capsys)


def test_fork_goes_on_without_its_trunk(fake_envs, trunks, tmp_path):
    shutil.copytree(trunks("rainbow"), tmp_path / "trunk")
    command = ["train", f"--fork={tmp_path / 'trunk'}@160", f"--run_dir={tmp_path / 'fork'}", "--resume"]
    assert train.main([*command, "--config.total_steps=200"]) == 0
    shutil.rmtree(tmp_path / "trunk")
    assert train.main([*command, "--config.total_steps=240"]) == 0
    assert records(tmp_path / "fork")[-1]["env_steps"] >= 240


def test_start_of_a_fork_removes_nothing_of_a_run_that_began(fake_envs, trunks, tmp_path):
    """Its configuration is missing, as if the run had not begun."""
    config = config_of("rainbow", total_steps=240)
    run_fork = functools.partial(train.run, config, tmp_path / "fork", fork=f"{trunks('rainbow')}@160", resume=True)
    run_fork()
    (tmp_path / "fork" / "config.json").unlink()
    before = contents(tmp_path / "fork")
    with pytest.raises(ConfigError, match="already exists"):
        run_fork()
    assert contents(tmp_path / "fork") == before


def test_checkpoint_stays_if_the_fork_says_so(fake_envs, trunks, tmp_path):
    for at, stays in ((180,), 181), ((160,), 160):
        config = config_of("rainbow", total_steps=200, checkpoint_at=at, checkpoints_kept=1, seer__freeze_step=170)
        directory = tmp_path / str(at[0])
        train.run(config, directory, fork=f"{trunks('rainbow')}@160")
        numbers = checkpoint.numbers(directory / checkpoint.DIRECTORY)
        first, last = (checkpoint.steps(directory / checkpoint.DIRECTORY, number) for number in numbers)
        assert first == stays
        assert last >= 200


def test_fork_of_a_trunk_whose_checkpoint_is_damaged_or_gone_is_refused(fake_envs, trunks, tmp_path):
    shutil.copytree(trunks("rainbow"), tmp_path / "trunk")
    saved = tmp_path / "trunk" / checkpoint.DIRECTORY / "000002"
    content = bytearray((saved / files.TREE_FILE).read_bytes())
    content[100] ^= 1
    (saved / files.TREE_FILE).write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=f"holds a damaged {files.TREE_FILE}"):
        train.run(config_of("rainbow"), tmp_path / "fork", fork=f"{tmp_path / 'trunk'}@160")
    shutil.rmtree(tmp_path / "trunk" / checkpoint.DIRECTORY)
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        train.run(config_of("rainbow"), tmp_path / "fork", fork=str(tmp_path / "trunk"))


def test_events_of_a_fork_begin_with_those_of_its_trunk(fake_envs, trunks, tmp_path):
    train.run(config_of("rainbow", total_steps=200), tmp_path / "fork", fork=f"{trunks('rainbow')}@160")
    lines = [json.loads(line) for line in (tmp_path / "fork" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["env_steps"] < 100
    events = b"".join(path.read_bytes() for path in (tmp_path / "fork" / "tensorboard").iterdir())
    assert events.count(b"train/loss") == sum("loss" in line for line in lines if line["kind"] == "train")
