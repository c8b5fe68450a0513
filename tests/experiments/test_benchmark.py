"""The benchmark; what needs PyTorch is skipped where it is not installed."""

import jax
import numpy as np
import pytest
from dm_env import specs

from experiments.benchmark import encoders, timing
from experiments.benchmark.cases import cases
from experiments.benchmark.noise import noisy_ring
from seer_jax import replay
from seer_jax.run import assembly, resolve
from seer_jax.seer import phases
from tests.helpers.runs import tiny_config, tiny_control_config

AGENTS = {
    "rainbow": (tiny_config, specs.DiscreteArray(3)),
    "curl": (tiny_control_config, specs.BoundedArray((2,), np.float32, -1.0, 1.0)),
}


def assemble(name: str) -> assembly.Assembly:
    make_config, action_spec = AGENTS[name]
    config = make_config()
    config.num_envs = 1  # as in the benchmark
    return assembly.assemble(resolve.resolve(config), action_spec)


def test_quick_cases_leave_out_the_impala_encoder():
    assert set(cases(quick=True)) == {"rainbow", "curl"}
    all_cases = cases(quick=False)
    assert {name for name, config in all_cases.items() if config.encoder.name == "impala"} == {
        "rainbow_impala",
        "curl_impala",
    }
    assert {config.replay.capacity for config in all_cases.values()} == {2000}


def test_costs_of_encoders_are_counted_without_times():
    found = {(x["encoder"], x["width"]): x for x in encoders._measure(["rainbow"], timed=False)}
    assert {key: x["latent_bytes"] for key, x in found.items() if key[0] == "impoola"} == {
        ("impoola", 1): 4 * 32,
        ("impoola", 4): 4 * 128,
    }
    for key, x in found.items():
        assert x["full_update_macs"] > 3 * x["frozen_update_macs"] > 0, key
        assert "full_update_ms" not in x
    assert found["impala", 1]["full_update_macs"] > found["impoola", 1]["full_update_macs"]


def test_first_call_is_not_timed(monkeypatch):
    clock, durations = [0.0], iter([100.0, 1.0, 2.0, 3.0])

    def call():
        clock[0] += next(durations)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    assert timing.time_each(2.5, call) == [1e3, 2e3]
    durations = iter([100.0, 1.0, 2.0, 3.0])
    assert timing.time_many(2.5, call, lambda: None) == 1.5e3


@pytest.mark.parametrize("num_steps", [None, 40])
@pytest.mark.parametrize("phase_name", [phases.FULL, phases.FROZEN])
def test_noisy_ring_has_as_many_rows_as_asked_for_and_every_one_can_be_sampled(phase_name, num_steps):
    phase = assemble("rainbow").phase(phase_name)
    spec, count = phase.ring_spec, num_steps or phase.ring_spec.num_steps
    ring = noisy_ring(phase, num_steps)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), ring) == jax.tree.map(lambda x: (x.shape, x.dtype), phase.ring)
    assert replay.size(spec, ring) == count
    rows, priorities = replay.read(spec, ring, 0, count)
    assert np.asarray(rows.observation).std(axis=(0, 1)).min() > 0
    assert np.asarray(rows.reward).std() > 0
    np.testing.assert_array_equal(priorities, np.ones((count, 1)))
    starts = np.asarray(replay.sample(spec, ring, jax.random.PRNGKey(0), batch_size=256).start)
    assert len(np.unique(starts)) > 30
    assert starts.max() < count


@pytest.mark.parametrize("phase_name", [phases.FULL, phases.FROZEN])
@pytest.mark.parametrize("name", AGENTS)
def test_twin_has_the_losses_and_gradients_of_the_agent(name, phase_name):
    pytest.importorskip("torch")
    from experiments.benchmark import agreement

    parts = assemble(name)
    phase = parts.phase(phase_name)
    state = phase.init_state(jax.random.PRNGKey(2))
    batch = replay.sample(
        phase.ring_spec, noisy_ring(phase), jax.random.PRNGKey(3), batch_size=8, importance_exponent=1.0
    )
    found = agreement.differences(parts.config, phase, state, batch)
    expected = {"rainbow": {"losses", "gradients"}, "curl": {"q_gradients", "actor_gradients"}}[name]
    if (name, phase_name) == ("curl", phases.FULL):
        expected |= {"contrast_gradients", "encoder_moments"}
    assert expected <= set(found)
    assert max(found.values()) < 1e-4, found
