"""The plan: its numbers are those of the run, and a run that does not fit is refused with it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from configs import curl_dmc, rainbow_atari
from seer_jax import flops, train
from seer_jax.envs import dmc, registry
from seer_jax.run import assembly, checkpoint, disk, needs, plan, plan_output
from seer_jax.run.resolve import resolve
from seer_jax.run.seed import Keys
from seer_jax.seer import signals
from seer_jax.seer.phases import FROZEN, FULL
from tests.helpers.fake_env import FakeEnv
from tests.helpers.rings import alone
from tests.helpers.runs import compiled_once, tiny_config


@pytest.fixture
def fake_env(monkeypatch):
    env = FakeEnv([7, 12], training=True)
    monkeypatch.setattr(registry, "make_env", lambda config, *, training, pools=(0,): env)
    monkeypatch.setattr(plan, "_CALIBRATION_SECONDS", 0.05)
    with compiled_once():
        yield env


def make_parts(env, **changes):
    return assembly.assemble(resolve(tiny_config(**changes)), env.action_spec)


def test_planned_bytes_are_those_of_the_arrays(fake_env):
    parts = make_parts(fake_env)
    for planned in needs.sizes(parts):
        phase = parts.phase(planned.phase)
        assert planned.ring_bytes == phase.init_ring().num_bytes
        assert planned.ring_bytes >= planned.capacity * planned.observation_bytes
        assert planned.capacity == phase.ring_spec.capacity


@pytest.mark.parametrize(
    ("config_file", "action_spec"),
    [(rainbow_atari, specs.DiscreteArray(18)), (curl_dmc, specs.BoundedArray((1,), np.float32, -1.0, 1.0))],
)
def test_preset_quick_frees_most_of_the_memory_and_of_the_work_at_the_freeze(config_file, action_spec, monkeypatch):
    monkeypatch.setattr(dmc, "require_rendering", lambda *args: None)
    parts = assembly.assemble(resolve(config_file.get_config("quick")), action_spec)
    full, frozen = needs.sizes(parts)
    assert frozen.ring_bytes < full.ring_bytes / 4
    full_macs, frozen_macs = (flops.paper_macs(phase.learner.passes(), 1) for phase in (parts.full, parts.frozen))
    assert frozen_macs < full_macs / 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {FULL: 200, FROZEN: 200}),
        ({"seer__enabled": False}, {FULL: 400}),
        ({"seer__freeze_step": 0, "seer__init_from": "runs/other"}, {FROZEN: 400}),
    ],
)
def test_plan_has_the_phases_and_steps_of_the_run(changes, expected):
    assert needs.phases_of(resolve(tiny_config(**changes))) == expected


def test_show_prints_costs_of_both_phases_and_starts_nothing(fake_env, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    plan.show(resolve(tiny_config(replay_ratio=0.25, seer__replay_ratio=2)))
    shown = capsys.readouterr().out
    (ratios,) = (line for line in shown.splitlines() if "updates per agent step" in line)
    assert re.findall(r"[\d.]+", ratios) == ["0.25", "2"]
    for text in ("full phase", "frozen phase", "MFLOP per agent step", "agent steps/s", "bfloat16", "time, without"):
        assert text in shown
    assert "disk, at most" in shown
    assert "enough; compiled by jaxlib" in shown
    assert "cannot grow" not in shown  # latents of every dtype are smaller than frames
    assert not list(tmp_path.iterdir())
    assert fake_env.closed


def test_measured_costs_fall_at_the_freeze(fake_env):
    parts = make_parts(fake_env)
    full, frozen = (plan.measure(parts, fake_env, planned) for planned in needs.sizes(parts))
    assert 0 < frozen.cost.macs < full.cost.macs
    assert min(full.steps_per_second, frozen.steps_per_second) > 0
    unmeasured, _ = needs.sizes(parts)
    assert full.device_bytes == unmeasured.device_bytes + full.temporary_bytes > unmeasured.device_bytes


def test_run_larger_than_the_device_is_refused_before_it_writes(fake_env, tmp_path, monkeypatch, capsys):
    needed = max(planned.device_bytes for planned in needs.sizes(make_parts(fake_env)))
    monkeypatch.setattr(needs, "device_memory", lambda: needed - 1)
    with pytest.raises(plan.OutOfMemoryError, match=r"lower replay\.capacity"):
        train.run(tiny_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert fake_env.closed
    monkeypatch.setattr(train.cli, "loaded", lambda config: tiny_config())
    assert train.main(["train", "--config=configs/rainbow_atari.py", f"--run_dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert "replay MB" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("changes", "phase", "fixes"),
    [
        ({"seer__enabled": False}, "full", "lower replay.capacity (now 300)"),
        ({}, "full", "lower replay.capacity (now 300) or lower seer.freeze_step (now 200)"),
        (
            {"replay__allow_more_memory": True, "encoder__name": "canonical"},
            "frozen",
            "lower replay.capacity (now 300) or set replay.grow_after_freeze=False or set replay.latent_dtype=bfloat16",
        ),
        (
            {"replay__capacity": 900, "replay__grow_after_freeze": False, "replay__latent_dtype": "float16"},
            "frozen",
            "lower replay.capacity (now 900)",
        ),
    ],
)
def test_refusal_names_what_makes_the_ring_of_that_phase_smaller(fake_env, monkeypatch, changes, phase, fixes):
    parts = make_parts(fake_env, **changes)
    (planned,) = [planned for planned in needs.sizes(parts) if planned.phase == phase]
    monkeypatch.setattr(needs, "device_memory", lambda: planned.device_bytes - 1)
    with pytest.raises(plan.OutOfMemoryError) as caught:
        plan.refuse_if_too_large(parts.config, [planned], plan.this_device())
    assert str(caught.value).endswith(f" GB; {fixes}")


@pytest.mark.parametrize(("encoder", "named"), [("data_efficient", ""), ("canonical", "float32: latents are larger")])
def test_plan_says_that_a_ring_cannot_grow_for_dtypes_where_it_cannot(encoder, named):
    sizes = {"env__image_size": 60, "env__crop_size": 60, "replay__allow_more_memory": True}
    config = resolve(tiny_config(encoder__name=encoder, **sizes))
    caption = plan_output.dtype_table(config).caption or ""
    assert caption.startswith(named)
    assert bool(caption) == bool(named)


@pytest.mark.parametrize("phase", [FULL, FROZEN])
def test_planned_disk_is_that_of_the_files(fake_env, tmp_path, phase):
    parts = make_parts(fake_env)
    planned, spec = parts.phase(phase), parts.phase(phase).ring_spec
    ring = planned.init_ring()
    ring = ring.replace(index=ring.index.replace(written=jnp.int32(spec.num_steps)))  # it is full
    trees = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), {"train": planned.state, "actor": planned.actor})
    saved = checkpoint.save(tmp_path, 1, progress={}, trees=trees, ring=alone(spec, ring))
    written = sum(path.stat().st_size for path in saved.directory.iterdir())
    assert disk._checkpoint_bytes(planned) == pytest.approx(written, rel=0.05)


def test_planned_disk_counts_checkpoints_snapshot_copies_and_metrics(fake_env):
    parts = make_parts(fake_env, params_every=100)
    full, frozen = (disk._checkpoint_bytes(parts.phase(name)) for name in (FULL, FROZEN))
    assert disk.needed(parts, [FULL, FROZEN]) == {
        "3 checkpoints, one of which is being written": 3 * max(full, frozen),
        "snapshot of the frames at the freeze": full,
        "5 copies of the parameters": 5 * sum(4 * x.size for x in jax.tree.leaves(parts.full.state.params)),
        "metrics, without those of episodes": 10 * disk._LINE_BYTES,
    }
    # Encoders of earlier signals are part of a checkpoint of the full phase.
    parts = make_parts(fake_env, seer__signal_every=20, checkpoint_every=0, replay__grow_after_freeze=False)
    encoder = 4 * sum(x.size for x in jax.tree.leaves(signals.encoder_of(parts.full.state.params)))
    found = disk.needed(parts, [FULL, FROZEN])
    snapshot = disk._checkpoint_bytes(parts.full) + signals.MOST_KEPT * encoder
    assert found["snapshot of the frames at the freeze"] == snapshot
    assert found["metrics, without those of episodes"] == 20 * disk._LINE_BYTES
    parts = make_parts(fake_env, checkpoint_every=0, seer__enabled=False)
    assert list(disk.needed(parts, [FULL])) == ["the last checkpoint", "metrics, without those of episodes"]


def test_calibration_learns_as_often_as_training(fake_env, monkeypatch):
    parts = make_parts(fake_env)
    phase, config = parts.full, parts.config
    programs, calls = phase.compile(), []
    counted = programs._replace(learn=lambda *args: calls.append(1) or programs.learn(*args))
    step, steps = fake_env.step, []
    monkeypatch.setattr(fake_env, "step", lambda action: steps.append(1) or step(action))
    plan._steps_per_second(phase, fake_env, counted, [Keys(0)])
    warm_up = 2 * config.agent.n_step + config.env.frame_stack
    updates, agent_steps = len(calls) * phase.updates_per_learn(), (len(steps) - warm_up) * config.num_envs
    assert updates > 0
    np.testing.assert_allclose(updates, agent_steps, atol=2 * config.num_envs)


@pytest.mark.parametrize(("text", "limit"), [("12345\n", 12_345), ("max\n", None)])
def test_memory_of_a_container_is_its_limit(monkeypatch, tmp_path, text, limit):
    monkeypatch.setattr(needs, "_CONTAINER_LIMITS", ())
    machine = needs.device_memory()
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(needs, "_CONTAINER_LIMITS", (tmp_path / "memory.max", tmp_path / "nothing"))
    assert needs.device_memory() == (limit or machine)
