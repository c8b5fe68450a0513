"""Heads against direct computations, and the distribution of the policy against integrals."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.networks import heads
from tests.helpers import naive
from tests.helpers.arrays import normal, random_params

pytestmark = pytest.mark.numeric


def noisy_layer():
    layer, x = heads.NoisyDense(features=3, noise_std=0.5), normal(4, 5)
    return jax.jit(layer.apply), random_params(layer, x, None), x


def test_noisy_layer_equals_factorised_noise_by_hand():
    apply, params, x = noisy_layer()
    p = params["params"]
    by_input, by_output = [1, -2, 3, 0, 4], [2, -1, 0]
    kernel = p["kernel"] + p["kernel_std"] * np.outer(by_input, by_output)
    expected = x @ kernel + p["bias"] + p["bias_std"] * by_output
    noise = np.float32([*by_input, *by_output])
    np.testing.assert_allclose(apply(params, x, noise), expected, rtol=1e-5, atol=1e-5)


def test_noise_is_the_signed_root_of_normals(monkeypatch):
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.float32([1, -4, 9, 0]).reshape(shape))
    np.testing.assert_array_equal(heads.draw_noise(None, (2, 2)), [[1, -2], [3, 0]])


def test_noise_by_row_equals_shared_noise_row_by_row():
    apply, params, x = noisy_layer()
    noise = normal(4, 8, seed=2)
    each = np.concatenate([apply(params, x[i : i + 1], noise[i]) for i in range(4)])
    np.testing.assert_allclose(apply(params, x, noise), each, rtol=1e-5, atol=1e-5)


def test_layer_without_noise_equals_its_means():
    apply, params, x = noisy_layer()
    p = params["params"]
    np.testing.assert_allclose(apply(params, x, None), x @ p["kernel"] + p["bias"], rtol=1e-5, atol=1e-5)


def test_initial_standard_deviations_are_those_of_the_paper():
    params = jax.jit(heads.NoisyDense(features=3, noise_std=0.5).init)(jax.random.PRNGKey(0), normal(4, 5), None)
    np.testing.assert_allclose(params["params"]["kernel_std"], 0.5 / np.sqrt(5), rtol=1e-6)
    np.testing.assert_allclose(params["params"]["bias_std"], 0.5 / np.sqrt(3), rtol=1e-6)


def test_each_layer_of_the_head_reads_separate_noise():
    head, latent = heads.DuelingC51(num_actions=3, num_atoms=5, hidden=6, noise_std=0.5), normal(2, 7)
    layers, apply = random_params(head, latent)["params"], jax.jit(head.apply)
    sizes = head.noise_sizes(7)
    assert sizes == (7 + 6, 6 + 5, 7 + 6, 6 + 15)
    names = ("value_hidden", "value", "advantage_hidden", "advantage")
    noise, ends = normal(sum(sizes), seed=2), np.cumsum((0, *sizes))
    for name, begin, end in zip(names, ends, ends[1:], strict=False):
        changed = noise.copy()
        changed[begin:end] += 1.0
        assert not np.allclose(apply({"params": layers}, latent, noise), apply({"params": layers}, latent, changed))
        without = {key: np.zeros_like(layers[name][key]) for key in ("kernel_std", "bias_std")}
        params = {"params": layers | {name: layers[name] | without}}
        np.testing.assert_array_equal(apply(params, latent, noise), apply(params, latent, changed))


def test_dueling_head_is_value_plus_centred_advantage():
    head, latent = heads.DuelingC51(num_actions=3, num_atoms=5, hidden=6, noise_std=0.1), normal(2, 7)
    params = random_params(head, latent)
    layers = params["params"]

    def stream(name):
        hidden = np.maximum(latent @ layers[f"{name}_hidden"]["kernel"] + layers[f"{name}_hidden"]["bias"], 0)
        return hidden @ layers[name]["kernel"] + layers[name]["bias"]

    advantage = stream("advantage").reshape(2, 3, 5)
    expected = stream("value")[:, None] + advantage - advantage.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(jax.jit(head.apply)(params, latent), expected, rtol=1e-4, atol=1e-5)


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
    latent = normal(16, 5)
    return policy, random_params(policy, latent), latent


def test_policy_log_density_of_its_samples_equals_twin():
    policy, params, latent = small_policy()

    @jax.jit
    def sample(params, latent, key):
        distribution = policy.apply(params, latent)
        normal = distribution.distribution
        before_tanh = normal.sample(seed=key), normal.loc, normal.stddev()
        return distribution.sample_and_log_prob(seed=key), before_tanh

    (action, log_prob), before_tanh = sample(params, latent, jax.random.PRNGKey(2))
    assert action.shape == (16, 2)
    assert log_prob.shape == (16,)
    assert np.all(np.abs(action) < 1)
    raw, mean, std = map(np.float64, before_tanh)
    np.testing.assert_allclose(action, np.tanh(raw), rtol=1e-5, atol=1e-6)
    expected = [naive.squashed_log_prob(*each) for each in zip(raw, mean, std, strict=True)]
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)


def test_policy_keeps_log_std_between_its_bounds():
    policy, params, latent = small_policy()
    std = jax.jit(lambda params, latent: policy.apply(params, latent).distribution.stddev())
    for scale in (0.0, 1e3, -1e3):
        log_std = np.log(std(params, latent * scale))
        assert np.all((log_std >= -10.001) & (log_std <= 2.001))
    unbiased = jax.tree.map(np.zeros_like, params)
    np.testing.assert_allclose(np.log(std(unbiased, latent)), -4.0, rtol=1e-4)


def test_q_functions_have_separate_parameters():
    critic, latent, action = heads.TwinQ(hidden=8), normal(4, 5), normal(4, 2)
    layers, apply = random_params(critic, latent, action)["params"], jax.jit(critic.apply)
    q = apply({"params": layers}, latent, action)
    assert q.shape == (4, 2)
    changed = layers["q1_1"] | {"kernel": layers["q1_1"]["kernel"] + 1.0}
    after = apply({"params": layers | {"q1_1": changed}}, latent, action)
    assert not np.allclose(after[:, 0], q[:, 0])
    np.testing.assert_array_equal(after[:, 1], q[:, 1])
