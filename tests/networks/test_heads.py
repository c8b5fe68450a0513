"""Heads against direct computations, and the distribution of the policy against integrals."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.networks import heads
from tests.helpers import naive

pytestmark = pytest.mark.numeric


def noisy_layer():
    layer = heads.NoisyDense(features=3, noise_std=0.5)
    x = jax.random.normal(jax.random.PRNGKey(1), (4, 5))
    return layer, layer.init(jax.random.PRNGKey(0), x, None), x


def test_noisy_layer_equals_factorised_noise_by_hand():
    layer, params, x = noisy_layer()
    p = jax.tree.map(np.asarray, params["params"])
    by_input, by_output = [1, -2, 3, 0, 4], [2, -1, 0]
    kernel = p["kernel"] + p["kernel_std"] * np.outer(by_input, by_output)
    expected = x @ kernel + p["bias"] + p["bias_std"] * by_output
    noise = np.float32([*by_input, *by_output])
    np.testing.assert_allclose(layer.apply(params, x, noise), expected, rtol=1e-5, atol=1e-5)


def test_noise_is_the_signed_root_of_normals(monkeypatch):
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.float32([1, -4, 9, 0]).reshape(shape))
    np.testing.assert_array_equal(heads.draw_noise(None, (2, 2)), [[1, -2], [3, 0]])


def test_noise_by_row_equals_shared_noise_row_by_row():
    layer, params, x = noisy_layer()
    noise = jax.random.normal(jax.random.PRNGKey(2), (4, 8))
    each = jnp.concatenate([layer.apply(params, x[i : i + 1], noise[i]) for i in range(4)])
    np.testing.assert_allclose(layer.apply(params, x, noise), each, rtol=1e-5, atol=1e-5)


def test_layer_without_noise_equals_its_means():
    layer, params, x = noisy_layer()
    p = params["params"]
    np.testing.assert_allclose(layer.apply(params, x, None), x @ p["kernel"] + p["bias"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(p["kernel_std"], 0.5 / np.sqrt(5))
    np.testing.assert_allclose(p["bias_std"], 0.5 / np.sqrt(3))


def test_each_layer_of_the_head_reads_separate_noise():
    head = heads.DuelingC51(num_actions=3, num_atoms=5, hidden=6, noise_std=0.5)
    latent = jax.random.normal(jax.random.PRNGKey(0), (2, 7))
    params = head.init(jax.random.PRNGKey(1), latent)
    sizes = head.noise_sizes(7)
    assert sizes == (7 + 6, 6 + 5, 7 + 6, 6 + 15)
    names = ("value_hidden", "value", "advantage_hidden", "advantage")

    def logits(noise, silent):
        """The head with the noise of one layer's parameters switched off."""
        layers = dict(params["params"])
        for key in ("kernel_std", "bias_std"):
            layers[silent] = layers[silent] | {key: jnp.zeros_like(layers[silent][key])}
        return head.apply({"params": layers}, latent, noise)

    noise = jax.random.normal(jax.random.PRNGKey(2), (sum(sizes),))
    ends = np.cumsum((0, *sizes))
    for name, begin, end in zip(names, ends, ends[1:], strict=False):
        changed = noise.at[begin:end].add(1.0)
        np.testing.assert_array_equal(logits(noise, silent=name), logits(changed, silent=name))
        assert not np.allclose(head.apply(params, latent, noise), head.apply(params, latent, changed))


def test_dueling_head_is_value_plus_centred_advantage():
    head = heads.DuelingC51(num_actions=3, num_atoms=5, hidden=6, noise_std=0.1)
    latent = jax.random.normal(jax.random.PRNGKey(0), (2, 7))
    params = head.init(jax.random.PRNGKey(1), latent)
    layers = params["params"]

    def dense(name, x):
        return x @ layers[name]["kernel"] + layers[name]["bias"]

    value = dense("value", jax.nn.relu(dense("value_hidden", latent)))
    np.testing.assert_allclose(head.apply(params, latent).mean(axis=1), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -1.0), (0.8, 0.3), (-1.5, -0.5)])
def test_squashed_density_integrates_to_one(mean, log_std):
    policy = distrax.Transformed(
        distrax.MultivariateNormalDiag(jnp.asarray([mean]), jnp.exp(jnp.asarray([log_std]))),
        distrax.Block(distrax.Tanh(), 1),
    )
    # Equal steps before squashing resolve the ends, where the density is steep.
    raw = np.linspace(-8, 8, 20_001)
    action = np.tanh(raw)
    density = np.exp(np.asarray(jax.vmap(policy.log_prob)(jnp.asarray(action[:, None], jnp.float32)), np.float64))
    inside = np.abs(action) < 1 - 1e-6
    np.testing.assert_allclose(np.trapezoid(density[inside], action[inside]), 1.0, atol=2e-3)


def small_policy(action_size=2):
    policy = heads.GaussianPolicy(action_size, hidden=8, log_std_min=-10.0, log_std_max=2.0)
    latent = jax.random.normal(jax.random.PRNGKey(1), (16, 5))
    return policy, policy.init(jax.random.PRNGKey(0), latent), latent


def test_policy_log_density_of_its_samples_equals_twin():
    policy, params, latent = small_policy()
    distribution = policy.apply(params, latent)
    action, log_prob = distribution.sample_and_log_prob(seed=jax.random.PRNGKey(2))
    assert action.shape == (16, 2)
    assert log_prob.shape == (16,)
    assert np.all(np.abs(action) < 1)
    normal = distribution.distribution
    raw, mean, std = (np.float64(x) for x in (normal.sample(seed=jax.random.PRNGKey(2)), normal.loc, normal.stddev()))
    np.testing.assert_allclose(action, np.tanh(raw), rtol=1e-5, atol=1e-6)
    expected = [naive.squashed_log_prob(*each) for each in zip(raw, mean, std, strict=True)]
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)


def test_policy_keeps_log_std_between_its_bounds():
    policy, params, latent = small_policy()
    for scale in (0.0, 1e3, -1e3):
        log_std = np.log(policy.apply(params, latent * scale).distribution.stddev())
        assert np.all((log_std >= -10.001) & (log_std <= 2.001))
    np.testing.assert_allclose(np.log(policy.apply(params, latent * 0).distribution.stddev()), -4.0, rtol=1e-4)


def test_q_functions_have_separate_parameters():
    critic = heads.TwinQ(hidden=8)
    latent, action = jnp.ones((4, 5)), jnp.ones((4, 2))
    params = critic.init(jax.random.PRNGKey(0), latent, action)
    q = critic.apply(params, latent, action)
    assert q.shape == (4, 2)
    changed = jax.tree.map(jnp.copy, params)
    changed["params"]["q1_1"]["kernel"] += 1.0
    after = critic.apply(changed, latent, action)
    assert not np.allclose(after[:, 0], q[:, 0])
    np.testing.assert_array_equal(after[:, 1], q[:, 1])
