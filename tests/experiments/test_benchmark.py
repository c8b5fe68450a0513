"""The benchmark; what needs PyTorch is skipped where it is not installed."""

import jax
import numpy as np
import pytest
from dm_env import specs

from experiments.benchmark import timing
from experiments.benchmark.cases import cases
from experiments.benchmark.noise import noisy_ring
from seer_jax import replay
from seer_jax.run import assembly
from seer_jax.run import resolve as config_lib
from seer_jax.seer import phases
from tests.runs import tiny_config, tiny_control_config

AGENTS = {
    "rainbow": (tiny_config, specs.DiscreteArray(3)),
    "curl": (tiny_control_config, specs.BoundedArray((2,), np.float32, -1.0, 1.0)),
}


def assemble(name: str) -> assembly.Assembly:
    make_config, action_spec = AGENTS[name]
    config = make_config()
    config.num_envs = 1  # as in the benchmark
    return assembly.assemble(config_lib.resolve(config), action_spec)


def test_quick_cases_leave_out_the_impala_encoder():
    assert set(cases(quick=True)) == {"rainbow", "curl"}
    all_cases = cases(quick=False)
    assert {name for name, config in all_cases.items() if config.encoder.name == "impala"} == {
        "rainbow_impala",
        "curl_impala",
    }
    assert {config.replay.capacity for config in all_cases.values()} == {2000}


def test_first_call_is_not_timed(monkeypatch):
    clock, durations = [0.0], iter([100.0, 1.0, 2.0, 3.0])

    def call():
        clock[0] += next(durations)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    assert timing.time_each(2.5, call) == [1e3, 2e3]
    durations = iter([100.0, 1.0, 2.0, 3.0])
    assert timing.time_many(2.5, call, lambda: None) == 1.5e3


@pytest.mark.parametrize("phase", [phases.FULL, phases.FROZEN])
def test_noisy_ring_is_full_and_every_row_can_be_sampled(phase):
    parts = assemble("rainbow")
    spec = parts.spec(phase)
    ring = noisy_ring(spec, parts.ring(phase))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), ring) == jax.tree.map(
        lambda x: (x.shape, x.dtype), parts.ring(phase)
    )
    assert int(ring.written) == spec.num_steps
    assert np.asarray(ring.rows.observation).std(axis=(0, 1)).min() > 0
    batch = replay.sample(spec, ring, jax.random.PRNGKey(0), batch_size=4096, importance_exponent=1.0)
    assert len(np.unique(np.asarray(batch.reward))) > spec.num_steps // 2


@pytest.mark.parametrize("phase", [phases.FULL, phases.FROZEN])
@pytest.mark.parametrize("name", AGENTS)
def test_twin_has_the_losses_and_gradients_of_the_agent(name, phase):
    pytest.importorskip("torch")
    from experiments.benchmark import agreement

    parts = assemble(name)
    state = jax.jit(parts.agent.init)(jax.random.PRNGKey(2))
    state = state if phase == phases.FULL else parts.agent.freeze(state)
    spec = parts.spec(phase)
    ring = noisy_ring(spec, parts.ring(phase))
    batch = replay.sample(spec, ring, jax.random.PRNGKey(3), batch_size=8, importance_exponent=1.0)
    found = agreement.differences(parts.config, parts.agent, state, batch, on_latents=phase == phases.FROZEN)
    assert {"losses", "gradients"} <= set(found) or {"q_gradients", "actor_gradients"} <= set(found)
    assert max(found.values()) < 1e-4, found
