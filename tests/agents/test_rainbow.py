"""Rainbow's loss, its two updates, and its noise."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from seer_jax.agents import base, rainbow
from seer_jax.seer import pace
from tests.helpers import agents, naive

NUM_ACTIONS = agents.NUM_ACTIONS
SUPPORT = np.linspace(-10, 10, 51)

small = functools.partial(agents.make, "rainbow")
random_batch = functools.partial(agents.random_batch, "rainbow")

PROJECTIONS = {
    "identity": (0.0, 1.0),
    "terminal": (3.1, 0.0),
    "terminal on an atom": (4.0, 0.0),
    "half an atom": (0.2, 1.0),
    "shift by whole atoms": (0.8, 1.0),
    "above the support": (50.0, 0.9),
    "below the support": (-50.0, 0.9),
    "discounted": (0.33, 0.97),
}


def with_noise_of(change, tree):
    """Changes the standard deviations of the noise."""
    return jax.tree_util.tree_map_with_path(lambda path, x: change(x) if "_std" in str(path[-1]) else x, tree)


@pytest.mark.numeric
@pytest.mark.parametrize("case", PROJECTIONS)
def test_projection_keeps_mass_and_equals_the_twin(case):
    reward, discount = PROJECTIONS[case]
    probs = np.random.default_rng(0).dirichlet(np.ones(51)).astype(np.float32)
    got = rlax.categorical_l2_project(np.float32(reward + discount * SUPPORT), probs, np.float32(SUPPORT))
    np.testing.assert_allclose(got.sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(got, naive.project_c51(SUPPORT, probs, reward, discount), atol=1e-5)
    if case == "identity":
        np.testing.assert_allclose(got, probs, atol=1e-6)


@pytest.mark.numeric
def test_loss_equals_a_loop_over_transitions():
    """Without noise, the loss is the cross-entropy to the projected double-Q target."""
    config, _, agent, (update,), _, state = small()
    without_noise = functools.partial(with_noise_of, jnp.zeros_like)
    state = state.replace(params=without_noise(state.params), target_params=without_noise(state.target_params))
    batch = random_batch()
    _, losses, info = update(state, batch)

    head = rainbow.heads.DuelingC51(NUM_ACTIONS, 51, config.agent.hidden, config.agent.noise_std)

    @jax.jit
    def probs(params, obs):
        return jax.nn.softmax(head.apply(params["heads"], agent.encode(params, obs)[:, 0]))  # [B, num_actions, 51]

    online, selector, target = (
        np.asarray(probs(params, obs))
        for params, obs in (
            (state.params, batch.obs),
            (state.params, batch.next_obs),
            (state.target_params, batch.next_obs),
        )
    )
    expected = naive.double_q_losses(SUPPORT, online, selector, target, batch)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_allclose(info["loss"], np.mean(batch.weight * losses), rtol=1e-5)


@pytest.mark.numeric
def test_no_gradient_reaches_selector_or_target():
    agent, state = small().agent, small().state
    frozen = agent.freeze(state)
    batch = agents.encoded(agent, state.params, random_batch())

    def loss(obs, next_obs, target_params):
        changed = batch.replace(obs=obs, next_obs=next_obs)
        update = agents.at_every_step(agent.frozen.updates[0])
        _, losses, _ = update(frozen.replace(target_params=target_params), changed)
        return losses.sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    by_obs, *others = gradient(batch.obs, batch.next_obs, frozen.target_params)
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0.0), others)
    assert np.any(by_obs)


@pytest.mark.numeric
def test_no_gradient_of_the_encoder_comes_from_the_next_observation():
    """Black observations give the first kernel no gradient, bright ones after them could."""
    _, _, _, (update,), _, state = small()
    black = random_batch().replace(obs=jnp.zeros((8, 42, 42, 4), jnp.uint8))

    def kernel(params):
        return params["encoder"]["conv1"]["params"]["PatchConv_0"]["kernel"]

    after, _, _ = update(state, black)
    np.testing.assert_array_equal(kernel(agents.gradients(state, after)), 0.0)
    np.testing.assert_array_equal(kernel(after.params), kernel(state.params))
    bright, _, _ = update(state, random_batch())
    assert np.any(kernel(agents.gradients(state, bright)))


def test_loss_and_selector_share_one_noise_and_the_target_has_its_own():
    """The losses equal those of a loop over transitions with the noise of two keys, one for each network."""
    made = small()
    agent, state = made.agent, made.state
    frozen, batch = agent.freeze(state), agents.encoded(agent, state.params, random_batch())
    networks = rainbow.make_networks(made.config, NUM_ACTIONS)
    _, key = base.update_keys(frozen)
    online, target = (rainbow.heads.draw_noise(k, (networks.noise_size,)) for k in jax.random.split(key))

    @jax.jit
    def probs(params, latents, noise):
        return jax.nn.softmax(networks.logits(params, latents[:, 0], noise))

    def expected(selector_noise):
        return naive.double_q_losses(
            SUPPORT,
            probs(frozen.params, batch.obs, online),
            probs(frozen.params, batch.next_obs, selector_noise),
            probs(frozen.params | frozen.target_params, batch.next_obs, target),
            batch,
        )

    np.testing.assert_allclose(agent_losses(frozen, batch), expected(online), rtol=1e-4)
    assert not np.allclose(expected(online), expected(target), rtol=1e-3)  # the noise of the selector matters


def agent_losses(state, batch):
    return small().frozen_updates[0](state, batch)[1]


def test_acting_noise_differs_between_environments_and_evaluation_has_none():
    agent, state = small().agent, small().state
    latents = jnp.tile(jax.random.normal(jax.random.PRNGKey(0), (1, 1, 64)), (64, 1, 1))
    noisy = with_noise_of(lambda x: x + 1.0, state.params)
    actions = np.asarray(jax.jit(agent.act)(noisy, latents, jax.random.PRNGKey(0), jnp.int32(0)))
    assert len(set(actions)) > 1
    evaluated = np.asarray(jax.jit(agent.act_eval)(noisy, latents, jax.random.PRNGKey(1)))
    assert len(set(evaluated)) == 1


@pytest.mark.parametrize(("learn_start", "ratio"), [(1600, 1.0), (30, 1.0), (1601, 0.5), (1600, 0.25), (1600, 2.0)])
def test_target_is_copied_at_agent_steps_that_are_multiples_of_the_period(learn_start, ratio):
    """Where updates do not come at every step, at the first update after such a step; of several updates, at one."""
    made, ratio = small(), pace.replay_ratio(ratio)
    update, state, batch = jax.jit(made.agent.full.updates[0]), made.state, random_batch()
    period, before = made.config.agent.target_update_every, state.target_params
    since = jnp.array(pace.since_start(learn_start))
    copied, last = [], learn_start
    for count in range(1, 8):
        state, _, _ = update(state, batch, pace.steps_of(ratio, since, state.updates))
        now = learn_start + math.ceil(count / ratio)
        copied.append(any(step % period == 0 for step in range(last + 1, now + 1)))
        assert agents.equal(state.target_params, state.params if copied[-1] else before)
        before, last = state.target_params, now
    assert any(copied)
    assert ratio < 0.5 or not all(copied)


def test_learning_moves_values_towards_returns():
    """Terminal transitions of two observations with rewards 1 and -1: the loss falls."""
    _, _, agent, (update,), _, _ = small()
    state = jax.jit(agent.init)(jax.random.PRNGKey(0))
    batch = random_batch()
    sign = jnp.where(jnp.arange(8) % 2 == 0, 1.0, -1.0)
    obs = jnp.where(sign[:, None, None, None] > 0, jnp.uint8(200), jnp.uint8(20)) * jnp.ones_like(batch.obs)
    batch = batch.replace(obs=obs, reward=sign, discount=jnp.zeros(8), weight=jnp.ones(8))
    first = None
    for _ in range(150):
        state, _, info = update(state, batch)
        first = info["loss"] if first is None else first
    assert info["loss"] < 0.7 * first
