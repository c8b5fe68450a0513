"""Rainbow's loss, its two updates, and what the freeze does to its state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from dm_env import specs

from configs import rainbow_atari
from seer_jax import replay
from seer_jax.agents import base, rainbow
from seer_jax.seer import phases

NUM_ACTIONS = 3
ACTIONS = specs.DiscreteArray(NUM_ACTIONS)
SUPPORT = np.linspace(-10, 10, 51)


def small_config(**encoder):
    config = rainbow_atari.get_config().unlock()
    config.env.image_size = config.env.crop_size = 42
    config.agent.hidden = 16
    config.agent.target_update_every = 3
    config.agent.learning_rate = 1e-3
    config.encoder.update(encoder)
    config.seer.freeze_through = rainbow.stage_names(config)[-1]
    return config


@pytest.fixture(scope="module")
def agent():
    return rainbow.make_agent(small_config(), ACTIONS)


@pytest.fixture(scope="module")
def update(agent):
    return jax.jit(agent.updates[0])


@pytest.fixture(scope="module")
def update_latent(agent):
    return jax.jit(agent.latent_updates[0])


@pytest.fixture(scope="module")
def state(agent):
    state = jax.jit(agent.init)(jax.random.PRNGKey(0))
    # Parameters that differ from their targets, as they do in training.
    nudged = jax.tree.map(lambda x: x + 0.01, state.params)
    return state.replace(params=nudged)


def random_batch(size=8, seed=0):
    rng = np.random.default_rng(seed)
    stacks = rng.integers(0, 255, (2, size, 42, 42, 4)).astype(np.uint8)
    return replay.Batch(
        obs=jnp.asarray(stacks[0]),
        action=jnp.asarray(rng.integers(0, NUM_ACTIONS, size), jnp.int32),
        reward=jnp.asarray(rng.normal(size=size), jnp.float32),
        discount=jnp.asarray(rng.choice([0.0, 0.9], size), jnp.float32),
        next_obs=jnp.asarray(stacks[1]),
        weight=jnp.asarray(rng.uniform(0.1, 1, size), jnp.float32),
        start=jnp.arange(size),
    )


def encode_batch(agent, params, batch):
    encode = jax.jit(agent.encode)
    return batch.replace(obs=encode(params, batch.obs), next_obs=encode(params, batch.next_obs))


CASES = {
    "identity": (0.0, 1.0),
    "terminal": (3.1, 0.0),
    "terminal on an atom": (4.0, 0.0),
    "half an atom": (0.2, 1.0),
    "shift by whole atoms": (0.8, 1.0),
    "above the support": (50.0, 0.9),
    "below the support": (-50.0, 0.9),
    "discounted": (0.33, 0.97),
}


@pytest.mark.parametrize("case", CASES)
def test_projection_keeps_mass_and_equals_the_twin(case):
    reward, discount = CASES[case]
    probs = np.random.default_rng(0).dirichlet(np.ones(51)).astype(np.float32)
    got = rlax.categorical_l2_project(np.float32(reward + discount * SUPPORT), probs, np.float32(SUPPORT))
    np.testing.assert_allclose(got.sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(got, naive.project_c51(SUPPORT, probs, reward, discount), atol=1e-5)
    if case == "identity":
        np.testing.assert_allclose(got, probs, atol=1e-6)


def test_loss_equals_a_loop_over_transitions(agent, update, state):
    """Without noise, the loss is the cross-entropy to the projected double-Q target."""
    silent = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.zeros_like(x) if "_std" in str(path[-1]) else x, (state.params, state.target_params)
    )
    state = state.replace(params=silent[0], target_params=silent[1])
    batch = random_batch()
    _, losses, info = update(state, batch)

    config = small_config()
    encode = jax.jit(agent.encode)
    head = rainbow.heads.DuelingC51(NUM_ACTIONS, 51, config.agent.hidden, config.agent.noise_std)
    logits = jax.jit(lambda params, latent: head.apply(params, latent))
    for i in range(8):

        def probs(params, obs, i=i):
            latent = encode(params, obs[i : i + 1])[0, 0]
            return np.asarray(jax.nn.softmax(logits(params["heads"], latent)))

        best = (probs(state.params, batch.next_obs) @ SUPPORT).argmax()
        target = probs(state.target_params, batch.next_obs)[best]
        target = naive.project_c51(SUPPORT, target, float(batch.reward[i]), float(batch.discount[i]))
        chosen = probs(state.params, batch.obs)[int(batch.action[i])]
        np.testing.assert_allclose(losses[i], -np.sum(target * np.log(chosen)), rtol=1e-4)
    np.testing.assert_allclose(info["loss"], np.mean(batch.weight * losses), rtol=1e-5)


def test_no_gradient_reaches_selector_or_target(agent, state):
    frozen = agent.freeze(state)
    batch = encode_batch(agent, state.params, random_batch())

    def loss(next_obs, target_params):
        _, losses, _ = agent.latent_updates[0](
            frozen.replace(target_params=target_params), batch.replace(next_obs=next_obs)
        )
        return losses.sum()

    grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(batch.next_obs, frozen.target_params)
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0.0), grads)
    assert np.any(jax.jit(jax.grad(lambda obs: loss_of_obs(agent, frozen, batch, obs)))(batch.obs))


def loss_of_obs(agent, state, batch, obs):
    return agent.latent_updates[0](state, batch.replace(obs=obs))[1].sum()


def test_no_gradient_of_the_encoder_comes_from_the_next_observation(update, state):
    """Black observations give the first kernel no gradient, bright ones after them could."""
    black = random_batch().replace(obs=jnp.zeros((8, 42, 42, 4), jnp.uint8))

    def kernel(state):
        return state.params["encoder"]["conv1"]["params"]["PatchConv_0"]["kernel"]

    np.testing.assert_array_equal(kernel(update(state, black)[0]), kernel(state))


def test_online_selector_and_target_draw_noise_of_their_own(agent, state, monkeypatch):
    """The loss changes when the draw of any one of the three is replaced by that of another."""
    frozen, batch = agent.freeze(state), encode_batch(agent, state.params, random_batch())
    _, key = base.update_keys(frozen)
    keys, draw = jax.random.split(key, 3), rainbow.heads.draw_noise

    def losses(rows):
        def replaced(k, shape):
            return draw(keys[jnp.array(rows)[jnp.argmax((keys == k).all(axis=1))]], shape)

        with monkeypatch.context() as patch:
            patch.setattr(rainbow.heads, "draw_noise", replaced)
            return jax.jit(lambda: agent.latent_updates[0](frozen, batch)[1])()

    own = losses([0, 1, 2])
    assert not np.allclose(own, losses([1, 1, 2]))  # online
    assert not np.allclose(own, losses([0, 1, 1]))  # target
    np.testing.assert_array_equal(own, losses([0, 1, 2]))


def test_acting_noise_differs_between_environments_and_evaluation_has_none(agent, state):
    latents = jnp.tile(jax.random.normal(jax.random.PRNGKey(0), (1, 1, 64)), (64, 1, 1))
    loud = jax.tree_util.tree_map_with_path(lambda path, x: x + 1.0 if "_std" in str(path[-1]) else x, state.params)
    actions = np.asarray(agent.act(loud, latents, jax.random.PRNGKey(0), jnp.int32(0)))
    assert len(set(actions)) > 1
    evaluated = np.asarray(agent.act_eval(loud, latents, jax.random.PRNGKey(1)))
    assert len(set(evaluated)) == 1


def test_target_follows_every_period(update, state):
    batch = random_batch()
    before = state.target_params
    for count in range(1, 7):
        state, _, _ = update(state, batch)
        expected = state.params if count % 3 == 0 else before
        jax.tree.map(np.testing.assert_array_equal, state.target_params, expected)
        before = state.target_params


def test_freeze_ties_targets_and_keeps_the_heads_optimizer(agent, update, state):
    state, _, _ = update(state, random_batch())
    frozen = agent.freeze(state)
    assert set(frozen.target_params) == set(frozen.opt_state) == {"tail", "heads"}
    jax.tree.map(np.testing.assert_array_equal, frozen.opt_state["heads"], state.opt_state["heads"])
    assert int(frozen.opt_state["heads"][0].count) == 1
    jax.tree.map(np.testing.assert_array_equal, frozen.params, state.params)


def test_latent_update_equals_full_update_with_a_stopped_encoder(agent, update, update_latent, state):
    batch = random_batch()
    frozen = agent.freeze(state)
    stopped = frozen.replace(target_params=frozen.target_params | {"encoder": state.params["encoder"]})
    full, full_losses, _ = update(stopped, batch)
    latent, losses, _ = update_latent(frozen, encode_batch(agent, state.params, batch))
    np.testing.assert_allclose(losses, full_losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), latent.params, full.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), latent.opt_state["heads"], full.opt_state["heads"]
    )


def test_encoder_is_bitwise_constant_after_the_freeze(agent, update_latent, state):
    frozen = agent.freeze(state)
    before = jax.tree.map(np.asarray, frozen.params)
    batch = encode_batch(agent, frozen.params, random_batch())
    for _ in range(100):
        frozen, _, _ = update_latent(frozen, batch)
    jax.tree.map(np.testing.assert_array_equal, frozen.params["encoder"], before["encoder"])
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), frozen.params["heads"], before["heads"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(("phase", "expected"), [(phases.FULL, True), (phases.FROZEN, False)])
def test_latent_learning_compiles_to_no_convolution(phase, expected):
    """The canonical encoder has real convolutions; the data-efficient one is matrix products in any phase."""
    canonical = rainbow.make_agent(small_config(name="canonical"), ACTIONS)
    state = jax.eval_shape(canonical.init, jax.random.PRNGKey(0))
    observation = jax.ShapeDtypeStruct((1, 42, 42, 1), jnp.uint8)
    if phase == phases.FROZEN:
        state = jax.eval_shape(canonical.freeze, state)
        observation = jax.ShapeDtypeStruct((1, 1, 1, 64), jnp.float32)
    row = replay.row_shapes(observation, jax.ShapeDtypeStruct((1,), jnp.int32))
    spec = replay.RingSpec(num_steps=50, num_envs=1, stack=4 if phase == phases.FULL else 0, n_step=3, discount=0.9)
    learn = phases.make_learn(
        canonical,
        spec,
        phase,
        batch_size=4,
        num_updates=1,
        importance_exponent=lambda updates: 0.4,
        unroll=True,
    )
    ring = jax.eval_shape(lambda: replay.init(spec, row))
    program = jax.jit(learn).lower(state, ring).compile()
    assert (" convolution(" in program.as_text()) == expected


def test_learning_drives_the_value_to_the_return(agent, update):
    """Terminal transitions of two observations with rewards 1 and -1: Q must find them."""
    state = jax.jit(agent.init)(jax.random.PRNGKey(0))
    batch = random_batch(size=16)
    sign = jnp.where(jnp.arange(16) % 2 == 0, 1.0, -1.0)
    obs = jnp.where(sign[:, None, None, None] > 0, jnp.uint8(200), jnp.uint8(20)) * jnp.ones_like(batch.obs)
    batch = batch.replace(obs=obs, reward=sign, discount=jnp.zeros(16), weight=jnp.ones(16))
    first = None
    for _ in range(150):
        state, _, info = update(state, batch)
        first = info["loss"] if first is None else first
    assert info["loss"] < 0.7 * first
