"""Programs of a phase as they are compiled, and what they cost."""

import jax
import numpy as np
import pytest

from seer_jax.run.assembly import assemble
from seer_jax.seer import phases
from tests.helpers import agents


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
