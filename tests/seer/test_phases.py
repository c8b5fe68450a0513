"""Programs of a phase as they are compiled, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark.noise import noisy_ring
from seer_jax.config import FIRST_STACKS
from seer_jax.envs.timestep import TimeStep
from seer_jax.run.assembly import assemble
from seer_jax.seer import pace, phases
from tests.helpers import agents
from tests.helpers.arrays import random_like
from tests.helpers.rings import as_dicts, make_twin, random_rows, sample_at, sampleable_starts


def make_phase(algorithm, name, **changes):
    config = agents.small_config(algorithm, replay__capacity=100, **changes)
    return assemble(config, agents.ACTION_SPECS[algorithm]).phase(name)


@pytest.mark.parametrize(("name", "expected"), [(phases.FULL, True), (phases.FROZEN, False)])
def test_learn_compiles_to_convolutions_in_the_full_phase_alone(name, expected):
    """The canonical encoder has real convolutions; the data-efficient one is matrix products in any phase."""
    phase = make_phase("rainbow", name, encoder__name="canonical", seer__freeze_through="conv3", agent__batch_size=4)
    jitted = phase.jit("cpu")
    program = jitted.learn.lower(*jitted.learn_arguments).compile()
    assert (" convolution(" in program.as_text()) == expected


@pytest.mark.parametrize(
    ("num_envs", "ratio", "cycles", "frozen_cycles"), [(4, 1.0, 4, 8), (1, 1.0, 1, 2), (4, 0.125, 1, 1), (4, 0.4, 1, 3)]
)
def test_updates_that_are_due_together_share_a_loop_on_an_accelerator(num_envs, ratio, cycles, frozen_cycles):
    ratios = {"num_envs": num_envs, "replay_ratio": ratio, "seer__replay_ratio": 2 * ratio}
    for name, expected in ((phases.FULL, cycles), (phases.FROZEN, frozen_cycles)):
        phase = make_phase("rainbow", name, **ratios)
        for platform in ("cuda", "gpu", "tpu"):
            assert phase.cycles_per_learn(platform) == phase.updates_per_learn(platform) == expected
        assert phase.cycles_per_learn("cpu") == phase.updates_per_learn("cpu") == 1


def test_calls_of_curl_make_whole_cycles():
    phase = make_phase("curl_sac", phases.FROZEN, num_envs=5)
    assert (phase.cycles_per_learn("tpu"), phase.updates_per_learn("tpu")) == (2, 4)
    assert (phase.cycles_per_learn("cpu"), phase.updates_per_learn("cpu")) == (1, 2)


@pytest.mark.parametrize("algorithm", ["rainbow", "curl_sac"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_call_that_makes_fewer_updates_than_it_can_equals_as_many_calls_of_one_cycle(algorithm, count):
    phase = make_phase(algorithm, phases.FROZEN, agent__batch_size=4, replay__prioritized=True)
    ring, since = noisy_ring(phase), jnp.array([1600, 0, 1600])
    state = phase.agent.freeze(agents.trained_state(phase.agent))
    loop, one = jax.jit(phases.make_learn(phase, 4)), jax.jit(phases.make_learn(phase, 1))
    together, loop_ring, info = loop(state, ring, pace.Due(since, jnp.int32(count)))
    losses = []
    for _ in range(count):
        state, ring, info_of_one = one(state, ring, pace.Due(since))
        losses.append(float(info_of_one["loss"]))
    assert int(together.updates) == int(state.updates) == count * len(phase.learner.updates)
    agents.assert_close(together.params, state.params, rtol=1e-4, atol=1e-6)
    agents.assert_close(loop_ring, ring, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(float(info["loss"]), np.mean(losses) if losses else 0.0, rtol=1e-4)


def test_cost_per_step_sums_acting_and_learning_of_as_many_updates_as_the_replay_ratio_says():
    phase = make_phase("rainbow", phases.FROZEN, num_envs=4, seer__replay_ratio=0.5, agent__batch_size=4)
    programs = phase.compile()
    assert set(programs.interact_costs) == {"act", "encode"}
    assert set(programs.update_costs) == {"update"}
    for kind in ("flops", "macs"):
        acting = sum(getattr(cost, kind) for cost in programs.interact_costs.values())
        learning = getattr(programs.update_costs["update"], kind)
        assert min(acting, learning) > 0
        np.testing.assert_allclose(getattr(programs.cost_per_step, kind), acting / 4 + learning / 2, rtol=1e-9)


def test_acting_keeps_its_cost_where_encoding_alone_costs_more_than_the_whole_program():
    """The compiled program leaves out the critic's dense layer, which encoding alone counts."""
    phase = make_phase("curl_sac", phases.FULL)
    alone = phase._interact_costs(1e12)
    total = alone["act"].flops + 1000.0
    split = phase._interact_costs(total)
    assert split["act"].flops == alone["act"].flops > 0
    assert split["encode"].flops == 1000.0


@pytest.mark.parametrize("algorithm", ["rainbow", "curl_sac"])
def test_phases_share_all_but_what_the_freeze_changes(algorithm):
    full, frozen = (make_phase(algorithm, name) for name in (phases.FULL, phases.FROZEN))
    assert full.learner.updates != frozen.learner.updates
    assert full.row.observation.dtype == np.uint8
    assert frozen.row.observation.dtype == np.float32
    assert frozen.ring_spec.stack == 0
    assert jax.tree.structure(full.actor) == jax.tree.structure(frozen.actor)
    frozen_shapes = jax.eval_shape(full.agent.freeze, full.state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), frozen.state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), frozen_shapes
    )


@pytest.mark.parametrize("first_stack", FIRST_STACKS)
def test_sampled_observations_are_the_stacks_that_the_agent_acted_on(first_stack):
    size = {"env__image_size": 30, "env__crop_size": 30}
    phase = make_phase("rainbow", phases.FULL, num_envs=2, env__first_stack=first_stack, **size)
    twin, rows = make_twin(phase.ring_spec), random_rows(np.random.default_rng(0), 2, (30, 30, 1))
    interact, params = jax.jit(phases.make_interact(phase)), random_like(phase.state.params)
    ring, actor, acted = phase.init_ring(), None, []
    for _, row in zip(range(70), rows, strict=False):
        step = TimeStep(row.observation, row.reward, row.reward, row.terminated, row.last, row.last, row.first)
        actor = actor or phases.init_actor(jax.random.PRNGKey(0), step, frame_stack=4)
        _, actor, ring = interact(params, actor, ring, step)
        acted.append(np.asarray(actor.stack))
        twin.add(as_dicts(row))
    starts = sorted(sampleable_starts(phase.ring_spec, ring))
    assert set(starts) == set(twin.transitions())
    black = [not acted[time][env, :, :, 0].any() for env, time in starts]
    assert any(black) == (first_stack == "black")
    for (env, time), sample in zip(starts, sample_at(phase.ring_spec, ring, starts), strict=True):
        np.testing.assert_array_equal(sample.obs, acted[time][env])
        np.testing.assert_array_equal(sample.obs, twin.observation(env, time))
