"""What a configuration makes: both phases, as shapes, and programs that own their buffers."""

from fractions import Fraction

import jax
import numpy as np
import pytest

from seer_jax.run import assembly
from seer_jax.run.resolve import resolve
from tests.helpers import fake_env
from tests.helpers.runs import tiny_config


def make_parts(**changes):
    config = resolve(tiny_config(**changes))
    return assembly.assemble(config, fake_env.make_env(config, training=True).action_spec)


def test_phases_differ_in_rows_capacity_and_training_state_alone():
    parts = make_parts()
    full, frozen = parts.full, parts.frozen
    assert (full.name, frozen.name) == ("full", "frozen")
    assert parts.phase("full") is full
    assert parts.phase("frozen") is frozen
    assert (full.row.observation.shape, full.row.observation.dtype) == ((2, 42, 42, 1), np.uint8)
    assert (frozen.row.observation.shape, frozen.row.observation.dtype) == ((2, 1, 1, 64), np.float32)
    assert (full.ring_spec.capacity, frozen.ring_spec.capacity) == (300, 2 * 400 + 10 * 2)
    assert (full.ring_spec.stack, frozen.ring_spec.stack) == (4, 0)
    assert set(full.state.opt_state) - set(frozen.state.opt_state) == {"encoder"}
    assert full.state.params == frozen.state.params
    assert full.actor == frozen.actor


@pytest.mark.parametrize(("ratio", "frozen", "expected"), [(0.25, None, (1, 4)), (1.0, 4.0, (4, 1))])
def test_replay_ratio_of_the_frozen_phase_is_its_own_or_that_of_the_run(ratio, frozen, expected):
    parts = make_parts(replay_ratio=ratio, seer__replay_ratio=frozen)
    assert parts.full.replay_ratio == Fraction(ratio)
    assert parts.frozen.replay_ratio == Fraction(*expected)


def test_importance_exponent_rises_to_one_over_its_own_steps():
    parts = make_parts(replay__importance_start=0.4, replay__importance_steps=640, learn_start=80)
    for phase in (parts.full, parts.frozen):
        exponents = [phase.importance_exponent(steps) for steps in (0, 80, 400, 720, 999)]
        np.testing.assert_allclose(exponents, [0.4, 0.4, 0.7, 1, 1], atol=1e-6)


def test_shapes_of_timesteps_are_those_that_the_environments_send():
    config = resolve(tiny_config())
    env = fake_env.make_env(config, training=True)
    sent, expected = env.reset(), assembly.assemble(config, env.action_spec).full.timestep
    assert [(x.shape, x.dtype) for x in sent] == [(x.shape, x.dtype) for x in expected]


@pytest.mark.parametrize("prioritized", [False, True])
def test_programs_own_their_buffers(prioritized):
    """Neither program of either phase copies the ring: outputs alias inputs, temporaries are smaller."""
    parts = make_parts(
        replay__prioritized=prioritized,
        replay__capacity=40_000,
        replay__grow_after_freeze=False,
        seer__freeze_step=4000,
        total_steps=4100,
    )
    for phase in (parts.full, parts.frozen):
        programs, ring_bytes = phase.compile(), phase.ring.num_bytes
        for program in (programs.interact, programs.learn):
            memory = program.memory_analysis()
            assert memory.alias_size_in_bytes >= ring_bytes
            assert memory.temp_size_in_bytes < ring_bytes / 2


def test_nothing_is_allocated_by_an_assembly():
    before = len(jax.live_arrays())
    parts = make_parts()
    assert parts.full.ring.num_bytes > parts.full.ring_spec.capacity * 42 * 42
    leaves = jax.tree.leaves((parts.full.state, parts.frozen.state, parts.full.ring, parts.frozen.ring))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert len(jax.live_arrays()) <= before + 2  # constants such as the atoms of a distribution
