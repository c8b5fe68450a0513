"""When updates are due, and when each became due, against counting step by step."""

import fractions
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.agents import base
from seer_jax.seer import pace

RATIOS = [1 / 8, 1.0, 4.0, 0.3, 1.5, 2 / 3, 64.0, 0.001]
LEARN_START = 1600


def naive_steps(ratio, begun, count):
    """Returns the agent step at which each of the first `count` updates becomes due, by taking the steps."""
    steps, due, now = [], fractions.Fraction(0), begun
    while len(steps) < count:
        now, due = now + 1, due + ratio
        steps += [now] * (int(due) - len(steps))
    return steps[:count]


@pytest.mark.parametrize("value", RATIOS)
def test_updates_become_due_at_the_steps_that_counting_says(value):
    ratio, begun, counted = pace.replay_ratio(value), 100, 7
    steps = naive_steps(ratio, begun, count=40)
    for env_steps in range(begun, steps[-1]):
        due = sum(step <= env_steps for step in steps)
        assert pace.updates_due(ratio, (begun, counted, begun), env_steps) == counted + due
    since = jnp.array([begun, counted, begun])
    found = jax.vmap(lambda updates: pace.steps_of(ratio, since, updates))(counted + jnp.arange(40))
    np.testing.assert_array_equal(found.now, steps)
    np.testing.assert_array_equal(found.before, [begun, *steps[:-1]])


@pytest.mark.parametrize("value", [0.0001, 0.9999, 1.0, 63.999])
def test_steps_stay_exact_after_two_thousand_million_agent_steps_or_updates(value):
    ratio, most = pace.replay_ratio(value), 2**31 - 100_000
    updates = min(most, pace.updates_due(ratio, (0, 0, 0), most))
    found = jax.jit(lambda updates: pace.steps_of(ratio, jnp.array([0, 0, 0]), updates))(jnp.int32(updates))
    assert (int(found.before), int(found.now)) == tuple(-(-each // ratio) for each in (updates, updates + 1))


@pytest.mark.parametrize("before", [1 / 3, 0.25, 1.0, 1.5])
@pytest.mark.parametrize("after", [1.0, 0.4, 4.0])
def test_no_multiple_of_a_period_is_lost_where_the_ratio_changes(before, after):
    """Also not one between the last update of the old ratio and the change."""
    change, period = 2000, 20
    old, new = pace.replay_ratio(before), pace.replay_ratio(after)
    since = pace.since_now(old, (LEARN_START, 0, LEARN_START), change)
    reached = []
    for ratio, base_, updates in (
        (old, [LEARN_START, 0, LEARN_START], range(since[1])),
        (new, since, range(since[1], since[1] + 200)),
    ):
        found = jax.vmap(lambda i, ratio=ratio, base_=base_: pace.steps_of(ratio, jnp.array(base_), i))(
            jnp.array(updates)
        )
        reached += [*zip(found.before.tolist(), found.now.tolist(), strict=True)]
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(reached))
    copies = [now // period for begin, now in reached if now // period > begin // period]
    assert copies == [*range(LEARN_START // period + 1, reached[-1][1] // period + 1)]


def test_ratio_is_the_nearest_fraction():
    assert pace.replay_ratio(1 / 3) == fractions.Fraction(1, 3)
    assert pace.replay_ratio(0.3333) == fractions.Fraction(3333, 10_000)
    assert pace.replay_ratio(4) == 4
    assert pace.replay_ratio(0.3) == fractions.Fraction(3, 10)
    assert pace.replay_ratio(1 / 10_000) == fractions.Fraction(1, 10_000)


@pytest.mark.parametrize(
    ("before", "now", "expected"), [(9, 10, True), (10, 11, False), (9, 25, True), (10, 10, False)]
)
def test_steps_reach_a_multiple(before, now, expected):
    assert base.Steps(jnp.int32(before), jnp.int32(now)).reach_multiple_of(10) == expected
