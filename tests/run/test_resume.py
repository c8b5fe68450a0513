"""Checkpoints, and runs that are cut off and go on as if they had not been."""

import io
import json
import pathlib
import pickle
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax import envs, evaluate, replay, train
from seer_jax.envs import registry, timestep
from seer_jax.run import checkpoint, metrics
from seer_jax.run import resolve as config_lib
from seer_jax.run.loop import NotFinite, Trainer
from tests.helpers.fake_env import FakeEnv, make_env
from tests.helpers.runs import records, run_killed_after, tiny_config, tiny_control_config, untimed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run with checkpoints before and after its freeze."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "make_env", make_env)
        train.run(resumable_config(), run_dir)
    return run_dir


def resumable_config():
    return tiny_config(checkpoint_every=90, replay__prioritized=True, replay__latent_dtype="bfloat16")


@pytest.mark.parametrize("kill_after", [[20], [60], [75, 40], [130, 60, 30]])
def test_a_resumed_run_is_the_uninterrupted_one(fake_envs, whole, tmp_path, monkeypatch, kill_after):
    """Killed before the first checkpoint, in the full phase, around the freeze, and in the frozen phase."""
    for i, steps in enumerate(kill_after):
        run_killed_after(resumable_config(), tmp_path / "run", steps, monkeypatch, resume=i > 0)
    train.run(resumable_config(), tmp_path / "run", resume=True)
    assert untimed(tmp_path / "run") == untimed(whole)
    (saved, _), (expected, _) = (
        checkpoint.load_newest_state(run_dir / checkpoint.DIRECTORY) for run_dir in (tmp_path / "run", whole)
    )
    jax.tree.map(np.testing.assert_array_equal, saved, expected)
    newest = [checkpoint.newest(d / checkpoint.DIRECTORY, pytest.fail).directory for d in (tmp_path / "run", whole)]
    chunks = [list(checkpoint.ChunkStream(directory)) for directory in newest]
    assert len(chunks[0]) == len(chunks[1]) > 0
    for chunk, other in zip(*chunks, strict=True):
        jax.tree.map(np.testing.assert_array_equal, chunk, other)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(fake_envs, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    *_, before, last = sorted((tmp_path / "run" / checkpoint.DIRECTORY).glob("[0-9]*"))
    rows = last / "rows-00000.npz"
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)
    train.run(resumable_config(), tmp_path / "run", resume=True)
    error = capsys.readouterr().err
    assert "damaged rows-00000.npz; using the one before it" in error
    assert before.exists()
    for record, expected in zip(untimed(tmp_path / "run"), untimed(whole), strict=True):
        assert {k: v for k, v in record.items() if v != expected[k]} == {}


def test_when_all_checkpoints_are_damaged_nothing_is_touched(fake_envs, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    for manifest in (tmp_path / "run" / checkpoint.DIRECTORY).glob("[0-9]*/manifest.json"):
        manifest.write_text("{")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint in .* can be read"):
        train.run(resumable_config(), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_resuming_with_another_configuration_is_refused(fake_envs, whole, tmp_path):
    config = resumable_config()
    config.agent.learning_rate = 0.5
    with pytest.raises(config_lib.ConfigError, match=r"agent\.learning_rate=.* there and 0\.5 here"):
        train.run(config, whole, resume=True)


def test_a_full_disk_costs_a_checkpoint_and_nothing_else(fake_envs, tmp_path, monkeypatch, capsys):
    save_state, calls = checkpoint.save_state, []

    def failing(directory, tree):
        calls.append(directory)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save_state(directory, tree)

    monkeypatch.setattr(checkpoint, "save_state", failing)
    train.run(tiny_config(checkpoint_every=60, seer__enabled=False), tmp_path / "run")
    assert "No space left on device" in capsys.readouterr().err
    numbers = [path.name for path in sorted((tmp_path / "run" / checkpoint.DIRECTORY).iterdir())]
    assert numbers == ["000006", "000007"]
    saved = [line["env_steps"] for line in records(tmp_path / "run") if line["kind"] == "checkpoint"]
    assert len(saved) == 6
    assert not [step for step in saved if 120 <= step < 180]


def test_a_last_checkpoint_that_fails_is_no_success(fake_envs, tmp_path, monkeypatch, capsys):
    """The disk is full at the end alone: nothing says that the run ended, and once there is room it does."""
    save = checkpoint.save

    def failing(*args, progress, **kwargs):
        if progress["env_steps"] >= 400:
            raise OSError(28, "No space left on device")
        return save(*args, progress=progress, **kwargs)

    run_dir = tmp_path / "run"
    monkeypatch.setattr(config_lib, "resolve", lambda config, real=config_lib.resolve: real(tiny_config()))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", failing)
        assert train.main(["train", "--config=configs/rainbow_atari.py", f"--run_dir={run_dir}"]) == 1
    assert (
        "no checkpoint after 400 steps (No space left on device); those before it stay; go on with"
        in capsys.readouterr().err
    )
    assert records(run_dir)[-1]["kind"] == "eval"
    assert train.main(["train", "--resume", f"--run_dir={run_dir}"]) == 0
    assert records(run_dir)[-1]["kind"] == "end"


def test_without_checkpoints_environments_are_never_renewed(fake_envs, tmp_path):
    train.run(tiny_config(checkpoint_every=0, eval_every=1000), tmp_path / "run")
    assert len(fake_envs) == 2  # one to train in, one for the final evaluation
    assert [line["kind"] for line in records(tmp_path / "run")].count("checkpoint") == 1


def test_a_torn_line_goes_when_a_run_is_resumed(tmp_path):
    writer = metrics.MetricsWriter(tmp_path)
    writer.write("train", {"env_steps": 1})
    size = writer.sync()
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"kind": "train", "env_st')
    metrics.MetricsWriter(tmp_path, offset=size).close()
    assert [json.loads(line)["env_steps"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1]


def small_ring():
    """A ring of 8 rows, of which 5 were written, in latents of a type that NumPy's format does not know."""
    spec = replay.RingSpec(num_steps=8, num_envs=1, stack=0, n_step=1, discount=0.9)
    latents = jax.ShapeDtypeStruct((1, 2, 1, 3), jnp.bfloat16)
    ring = replay.init(spec, replay.row_shapes(latents, jax.ShapeDtypeStruct((1,), np.int32)))
    for t in range(5):
        row = jax.tree.map(lambda x, t=t: jnp.full(x.shape[1:], t, x.dtype), ring.rows)
        ring = replay.add(spec, ring, row.replace(first=jnp.array([t == 0]), last=jnp.array([False])))
    return spec, ring


def test_a_checkpoint_of_format_1_is_still_read():
    """tests/fixtures holds what `checkpoint.save` wrote of `small_ring()` when 1 was the newest format."""
    saved = checkpoint.newest(pathlib.Path(__file__).parent / "fixtures" / "checkpoints_of_format_1", pytest.fail)
    assert saved.progress == {"env_steps": 5}
    spec, ring = small_ring()
    shapes = jax.eval_shape(lambda: ring)
    trees, restored = saved.restore({"x": jax.ShapeDtypeStruct((3,), np.float32)}, spec, shapes)
    np.testing.assert_array_equal(trees["x"], [0.0, 1.0, 2.0])
    jax.tree.map(np.testing.assert_array_equal, restored, ring)
    assert restored.rows.observation.dtype == jnp.bfloat16


def test_a_manifest_in_which_a_number_changed_is_damaged(tmp_path):
    _, ring = small_ring()
    for number in (1, 2):
        saved = checkpoint.save(tmp_path, number, progress={"env_steps": 123}, trees={}, ring=ring)
    manifest = saved.directory / checkpoint.MANIFEST_FILE
    manifest.write_text(manifest.read_text().replace("123", "923"))
    told = []
    assert checkpoint.newest(tmp_path, told.append).directory == tmp_path / "000001"
    assert "000002 holds a damaged manifest.json" in told[0]


def test_a_newer_format_is_refused_by_name(tmp_path):
    _, ring = small_ring()
    saved = checkpoint.save(tmp_path, 1, progress={}, trees={}, ring=ring)
    manifest = saved.directory / checkpoint.MANIFEST_FILE
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    told = []
    with pytest.raises(checkpoint.CheckpointError, match="can be read"):
        checkpoint.newest(tmp_path, told.append)
    assert "has format 2, and this version reads 1" in told[0]


def test_a_checkpoint_of_other_shapes_is_refused(tmp_path):
    spec = replay.RingSpec(num_steps=8, num_envs=1, stack=1, n_step=1, discount=0.9)
    row = replay.row_shapes(jax.ShapeDtypeStruct((1, 4, 4, 1), np.uint8), jax.ShapeDtypeStruct((1,), np.int32))
    ring = replay.init(spec, row)
    saved = checkpoint.save(tmp_path, 1, progress={}, trees={"x": np.zeros(3)}, ring=ring)
    shapes = jax.eval_shape(lambda: ring)
    trees, _ = saved.restore({"x": jax.ShapeDtypeStruct((3,), np.float64)}, spec, shapes)
    assert trees["x"].shape == (3,)
    for like in ({"x": jax.ShapeDtypeStruct((4,), np.float64)}, {"y": jax.ShapeDtypeStruct((3,), np.float64)}):
        with pytest.raises(checkpoint.CheckpointError, match="saved state"):
            saved.restore(like, spec, shapes)


def refuse_checkpoints_of(whole, run_dir, config, capsys):
    """Exchanges the configuration of a run; returns what `train --resume` and `evaluate` say, each in one line."""
    shutil.copytree(whole, run_dir)
    (run_dir / "config.json").write_text(json.dumps(config_lib.resolve(config).to_dict()))
    before, told = contents(run_dir), []
    for command in (["train", "--resume"], ["evaluate"]):
        assert {"train": train, "evaluate": evaluate}[command[0]].main([*command, f"--run_dir={run_dir}"]) == 2
        told.append(capsys.readouterr().err)
        assert told[-1].count("\n") == 1
        assert contents(run_dir) == before
    return told


def test_checkpoints_with_another_encoder_are_refused(fake_envs, whole, tmp_path, capsys):
    config = tiny_config(encoder__name="canonical", replay__allow_more_memory=True)
    for error in refuse_checkpoints_of(whole, tmp_path / "run", config, capsys):
        assert "the saved state" in error
        assert "conv" in error


@pytest.mark.skipif(not envs.HAS_EGL, reason="this machine has no EGL to render with")
def test_checkpoints_of_the_other_algorithm_are_refused(whole, tmp_path, capsys):
    for error in refuse_checkpoints_of(whole, tmp_path / "run", tiny_control_config(), capsys):
        assert "the saved state has other parts" in error


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_metrics_that_cannot_be_written_end_a_run_that_can_go_on(fake_envs, whole, tmp_path, monkeypatch, capsys):
    """The disk fills up when the first training step is to be logged."""
    write = metrics.MetricsWriter.write

    def failing(writer, kind, record):
        if kind == "train":
            raise metrics.WriteError("metrics.jsonl cannot be written: No space left on device")
        write(writer, kind, record)

    run_dir = tmp_path / "run"
    monkeypatch.setattr(config_lib, "resolve", lambda config, real=config_lib.resolve: real(resumable_config()))
    with monkeypatch.context() as patch:
        patch.setattr(metrics.MetricsWriter, "write", failing)
        assert train.main(["train", "--config=configs/rainbow_atari.py", f"--run_dir={run_dir}"]) == 1
    assert f"No space left on device; go on with --run_dir={run_dir} --resume" in capsys.readouterr().err
    assert train.main(["train", "--resume", f"--run_dir={run_dir}"]) == 0
    assert untimed(run_dir) == untimed(whole)


class Bomb:
    """Pickled, it touches a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_a_strangers_run_runs_no_code(fake_envs, whole, tmp_path, capsys):
    """Rows, state and configuration that carry code, with checksums that hold."""
    run_dir, proof = tmp_path / "run", tmp_path / "proof"
    shutil.copytree(whole, run_dir)
    newest = checkpoint.newest(run_dir / checkpoint.DIRECTORY, pytest.fail).directory
    bomb = np.array([Bomb(proof)], object)
    pickled = io.BytesIO()
    np.savez(pickled, allow_pickle=True, **dict.fromkeys(vars(small_ring()[1].rows), bomb))
    for name, content in (("rows-00000.npz", pickled.getvalue()), ("state.msgpack", pickle.dumps(Bomb(proof)))):
        before = (newest / name).read_bytes()
        (newest / name).write_bytes(content)
        sign(newest)
        assert train.main(["train", "--resume", f"--run_dir={run_dir}"]) == 2
        assert "cannot be read" in capsys.readouterr().err
        (newest / name).write_bytes(before)
    config = json.loads((run_dir / "config.json").read_text())
    config["encoder"]["name"] = "haiku:tests.fixtures.hostile:encoder"
    (run_dir / "config.json").write_text(json.dumps(config))
    for command in (train.main, evaluate.main):
        assert command(["command", f"--run_dir={run_dir}"] + ["--resume"] * (command is train.main)) == 2
        assert "if you trust it" in capsys.readouterr().err
    assert not proof.exists()
    assert "tests.fixtures.hostile" not in sys.modules
    pickle.loads(pickle.dumps(Bomb(proof)))
    assert proof.exists()  # the bomb is one


def sign(directory):
    """Gives a checkpoint that was tampered with a manifest whose checksums hold."""
    manifest = json.loads((directory / checkpoint.MANIFEST_FILE).read_text())
    manifest["files"] = {name: checkpoint._checksum(directory / name) for name in manifest["files"]}
    (directory / checkpoint.MANIFEST_FILE).write_text(json.dumps(manifest))


@pytest.mark.parametrize(("on_nan", "stops"), [("stop", True), ("ignore", False)])
def test_numbers_that_go_bad(fake_envs, tmp_path, monkeypatch, on_nan, stops):
    vector_step = Trainer._vector_step

    def step(trainer, **arguments):
        vector_step(trainer, **arguments)
        if trainer.env_steps >= 170 and trainer.phase == "full":
            trainer.state = jax.tree.map(lambda x: x * np.nan if x.dtype == np.float32 else x, trainer.state)

    monkeypatch.setattr(Trainer, "_vector_step", step)
    config = tiny_config(on_nan=on_nan, checkpoint_every=60, total_steps=260)
    if not stops:
        train.run(config, tmp_path / "run")
        return
    with pytest.raises(NotFinite, match=r"not finite after 1[78]\d agent steps; .*checkpoints/000002; lower"):
        train.run(config, tmp_path / "run")
    saved, _ = checkpoint.load_newest_state(tmp_path / "run" / checkpoint.DIRECTORY)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved["train"]["params"]))


@pytest.mark.parametrize(("field", "value"), [("reward", np.nan), ("reward", np.inf), ("frame", 0.5)])
def test_what_cannot_be_learned_from_is_refused_at_the_door(fake_envs, tmp_path, monkeypatch, field, value):
    real_step = FakeEnv.step

    def step(self, action):
        sent = real_step(self, action)
        return sent._replace(**{field: getattr(sent, field) * np.float32(value)}) if self._step == 20 else sent

    monkeypatch.setattr(FakeEnv, "step", step)
    with pytest.raises(timestep.BadTimeStep, match=field):
        train.run(tiny_config(), tmp_path / "run")
