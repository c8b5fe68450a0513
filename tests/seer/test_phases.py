"""Programs of a phase as they are compiled, and what they cost."""

import jax
import numpy as np
import pytest

from seer_jax.config import FIRST_STACKS
from seer_jax.envs.timestep import TimeStep
from seer_jax.run.assembly import assemble
from seer_jax.seer import phases
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
    program = phase.jit("cpu").learn.lower(phase.state, phase.ring).compile()
    assert (" convolution(" in program.as_text()) == expected


def test_updates_share_a_loop_where_the_platform_allows_it():
    """Updates are written out on the CPU alone, whose convolution gradients are slow in loops."""
    full, frozen = (
        make_phase("rainbow", name, encoder__name="canonical", seer__freeze_through="conv3", num_envs=4)
        for name in (phases.FULL, phases.FROZEN)
    )
    assert full.jit("cpu").loop_length == 1
    assert full.jit("cuda").loop_length == 4
    assert frozen.jit("cpu").loop_length == 4


def test_cost_per_step_sums_acting_and_learning_over_the_steps_between_calls():
    phase = make_phase("rainbow", phases.FROZEN, num_envs=4, update_every=2, agent__batch_size=4)
    assert (phase.updates_per_learn, phase.steps_per_learn) == (2, 4)
    programs = phase.compile()
    assert set(programs.interact_costs) == {"act", "encode"}
    assert set(programs.learn_costs) == {"update"}
    for kind in ("flops", "macs"):
        acting = sum(getattr(cost, kind) for cost in programs.interact_costs.values())
        learning = getattr(programs.learn_costs["update"], kind)
        assert min(acting, learning) > 0
        np.testing.assert_allclose(getattr(programs.cost_per_step, kind), acting / 4 + learning / 4, rtol=1e-9)


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
