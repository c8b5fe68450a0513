"""Resets of the heads: which parts change, to what, and which stay bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.agents import base
from tests.helpers import agents

HEADS = {"rainbow": {"heads"}, "curl_sac": {"critic", "actor", "log_temperature"}}


def reset(small, state, keep):
    return jax.jit(lambda state: base.reset_heads(small.agent, state, keep=keep))(state)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_heads_their_targets_and_moments_become_new_and_all_else_stays(name, frozen):
    small = agents.make(name)
    state = small.agent.freeze(small.state) if frozen else small.state
    after = reset(small, state, 0.0)
    for old, new in ((state.params, after.params), (state.target_params, after.target_params)):
        assert old.keys() == new.keys()
        assert {part for part in old if not agents.equal(old[part], new[part])} == HEADS[name] & old.keys()
        assert all(agents.equal(new[part], after.params[part]) for part in HEADS[name] & old.keys())
    assert after.opt_state.keys() == state.opt_state.keys()
    for part, opt_state in after.opt_state.items():
        untrained = all(not np.any(leaf) for leaf in jax.tree.leaves(opt_state))
        assert untrained == (part in HEADS[name])
        assert part in HEADS[name] or agents.equal(opt_state, state.opt_state[part])
    assert after.updates == state.updates
    assert agents.equal(after.key, state.key)


@pytest.mark.parametrize("name", HEADS)
def test_new_values_are_initial_values_of_a_key_of_their_own(name):
    small = agents.make(name)
    first, again, later = (
        reset(small, small.state.replace(updates=jnp.int32(updates)), 0.0) for updates in (100, 100, 101)
    )
    assert agents.equal(first, again)
    initial, compared = jax.jit(small.agent.init)(jax.random.PRNGKey(7)).params, 0
    for part in HEADS[name] - {"log_temperature"}:
        assert not agents.equal(first.params[part], later.params[part])
        for new, like in zip(jax.tree.leaves(first.params[part]), jax.tree.leaves(initial[part]), strict=True):
            if np.size(new) >= 48:  # large enough for a spread to be measured
                np.testing.assert_allclose(np.std(new), np.std(like), rtol=0.35)
                compared += 1
    assert compared >= 4


@pytest.mark.parametrize("name", HEADS)
def test_shrink_and_perturb_mixes_old_and_new_values(name):
    small = agents.make(name)
    whole, mixed = reset(small, small.state, 0.0), reset(small, small.state, 0.75)
    for part in HEADS[name]:
        for trees in ("params", "target_params"):
            old, new, found = (getattr(state, trees).get(part, {}) for state in (small.state, whole, mixed))
            expected = jax.tree.map(lambda x, y: 0.75 * np.float64(x) + 0.25 * np.float64(y), old, new)
            agents.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        assert agents.equal(mixed.opt_state[part], whole.opt_state[part])


def test_whole_reset_repairs_heads_that_are_not_finite():
    small = agents.make("rainbow")
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), small.state.params["heads"])
    after = reset(small, small.state.replace(params=small.state.params | {"heads": broken}), 0.0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))
