"""Seeds that are spread over devices: each is, bit for bit, what a run of this seed alone is."""

import json
import types

import pytest

from seer_jax import train
from seer_jax.run import assembly, checkpoint, state
from seer_jax.run.progress import Progress
from seer_jax.run.resolve import resolve
from tests.helpers.runs import run_killed_after, tiny_config
from tests.mesh import needs_devices
from tests.run.test_seeds import LEARNING, assert_equal_runs

pytestmark = needs_devices()
SHORT = {
    "total_steps": 120,
    "learn_start": 40,
    "log_every": 30,
    "seer__freeze_step": 70,
    "eval_every": 60,
    "checkpoint_every": 45,
    **LEARNING,
}


def test_eight_seeds_on_eight_devices_equal_their_runs_alone(fake_envs, tmp_path):
    short = SHORT | {"seer__signal_every": 15}
    train.run(tiny_config(seed=3, num_seeds=8, mesh__seed=8, **short), tmp_path / "together")
    for seed in range(3, 11):
        train.run(tiny_config(seed=seed, **short), tmp_path / f"alone-{seed}")
        assert_equal_runs(tmp_path / "together" / f"seed-{seed}", tmp_path / f"alone-{seed}")


@pytest.mark.parametrize(("first", "then"), [((1, 2), (2, 1))])
def test_checkpoints_do_not_depend_on_the_mesh(fake_envs, tmp_path, monkeypatch, first, then):
    """Restored on other devices and written from there, each file is the same, and the run goes on to its end."""
    config, other = (
        tiny_config(num_seeds=2, num_envs=4, mesh__seed=seed, mesh__data=data, replay__prioritized=True, **SHORT)
        for seed, data in (first, then)
    )
    run_killed_after(config, tmp_path / "run", 14, monkeypatch)
    directories = [tmp_path / "run" / f"seed-{seed}" / checkpoint.DIRECTORY for seed in range(2)]
    saved = [checkpoint.newest(directory, pytest.fail) for directory in directories]
    parts = assembly.assemble(resolve(other), fake_envs[0].action_spec)
    restored = state.restore(parts, saved)
    seeds = {
        i: types.SimpleNamespace(
            run_dir=tmp_path / f"again-{i}",
            progress=Progress.from_json(each.progress),
            to_json=lambda each=each: each.progress,
        )
        for i, each in enumerate(saved)
    }
    for seed in seeds.values():
        seed.run_dir.mkdir()
    assert state.save(restored, parts, seeds) == dict.fromkeys(seeds)
    for i, each in enumerate(saved):
        again = checkpoint.newest(seeds[i].run_dir / checkpoint.DIRECTORY, pytest.fail)
        checksums = [json.loads((c.directory / checkpoint.MANIFEST_FILE).read_text())["files"] for c in (each, again)]
        assert checksums[0] == checksums[1]
        assert len(checksums[0]) > 1
    end = train.run(other, tmp_path / "run", resume=True)
    assert [record["env_steps"] >= SHORT["total_steps"] for record in end["seeds"].values()] == [True] * 2
