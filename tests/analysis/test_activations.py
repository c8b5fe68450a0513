"""Activations of both agents against their networks layer by layer, and attention and similarity of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax import files
from seer_jax.agents.registry import AGENTS
from seer_jax.analysis.activations import make_activations
from seer_jax.analysis.attention import overlay, spatial_attention
from seer_jax.analysis.svcca import flatten_positions, svcca
from tests.helpers import agents
from tests.helpers.arrays import random_params

pytestmark = pytest.mark.numeric


LAST_FROZEN = {"rainbow": ("conv2", "conv1"), "curl_sac": ("dense", "conv1")}
EVERY_CASE = [(name, stage) for name, stages in LAST_FROZEN.items() for stage in stages]


@functools.cache
def make(name, stage):
    """Returns an agent, its state, views and actions, the compiled function, and the activations that it returns."""
    config, action_spec = agents.small_config(name, seer__freeze_through=stage), agents.ACTION_SPECS[name]
    if name == "rainbow":
        config = agents.replaced(config, agent__eval_epsilon=0.0)
    batch = agents.random_batch(name)
    action = None if name == "rainbow" else batch.action
    agent = AGENTS[name].make_agent(config, action_spec)
    # Parameters of which no bias is 0, and observations of all brightnesses, so that actions differ.
    state = random_params(agent)
    obs = (batch.obs * np.linspace(0, 1, 8)[:, None, None, None]).astype(np.uint8)
    views, activations = agent.view(obs), make_activations(config, action_spec)
    return agent, state, views, action, activations, activations(state.params, views, action)


@functools.cache
def latents_and_actions(name, stage):
    agent, state, views, *_ = make(name, stage)
    latents = jax.jit(agent.encode)(state.params, views)
    return latents, jax.jit(agent.act_eval)(state.params, latents, jax.random.PRNGKey(1))


@pytest.mark.parametrize(("name", "stage"), EVERY_CASE)
def test_activations_of_the_encoder_equal_the_latents(name, stage):
    *_, got = make(name, stage)
    latents, _ = latents_and_actions(name, stage)
    ends = ["encoder/dense", "actor_encoder/dense"] if stage == "dense" else [f"encoder/{stage}"]
    flat = np.stack([np.reshape(got[end], (8, -1)) for end in ends], axis=1)
    np.testing.assert_allclose(flat, latents, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "stage"), EVERY_CASE)
def test_names_hold_every_layer_and_do_not_depend_on_the_frozen_stage(name, stage):
    *_, got = make(name, stage)
    rainbow = {f"heads/{layer}" for layer in ("value_hidden", "value", "advantage_hidden", "advantage", "logits")}
    curl = {f"{mlp}{i}" for mlp in ("critic/q1_fc", "critic/q2_fc", "actor/fc") for i in (1, 2, 3)}
    names = {"rainbow": rainbow, "curl_sac": curl | {"encoder/dense", "actor_encoder/dense"}}[name]
    assert set(got) == names | {"encoder/conv1", "encoder/conv2"}
    for activation in got.values():
        assert len(activation) == 8
        assert activation.dtype == jnp.float32


def dense(params, x):
    return np.asarray(x) @ np.asarray(params["kernel"]) + np.asarray(params["bias"])


def relu(x):
    return np.maximum(x, 0)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stage", LAST_FROZEN["rainbow"])
def test_activations_of_rainbows_head_equal_the_one_that_acts_without_noise(stage):
    _, state, *_, got = make("rainbow", stage)
    _, acted = latents_and_actions("rainbow", stage)
    q = np.asarray(jax.nn.softmax(got["heads/logits"])) @ np.linspace(-10, 10, 51)
    np.testing.assert_array_equal(q.argmax(axis=1), acted)
    assert len(np.unique(acted)) > 1

    layers, latent = state.params["heads"]["params"], got["encoder/conv2"].reshape(8, -1)
    for stream in ("value", "advantage"):
        hidden = relu(dense(layers[f"{stream}_hidden"], latent))
        close(got[f"heads/{stream}_hidden"], hidden)
        close(got[f"heads/{stream}"], dense(layers[stream], hidden))
    advantage = got["heads/advantage"].reshape(8, agents.NUM_ACTIONS, -1)
    close(got["heads/logits"], got["heads/value"][:, None] + advantage - advantage.mean(axis=1, keepdims=True))


@pytest.mark.parametrize("stage", LAST_FROZEN["curl_sac"])
def test_activations_of_curls_heads_equal_those_of_policy_and_critic(stage):
    _, state, _, action, _, got = make("curl_sac", stage)
    _, acted = latents_and_actions("curl_sac", stage)
    np.testing.assert_allclose(np.tanh(got["actor/fc3"][:, :2]), acted, rtol=1e-5, atol=1e-5)

    critic_input = np.concatenate([got["encoder/dense"], action], axis=1)
    inputs = {
        "critic/q1_fc": (state.params["critic"], "q1_", critic_input),
        "critic/q2_fc": (state.params["critic"], "q2_", critic_input),
        "actor/fc": (state.params["actor"], "policy", got["actor_encoder/dense"]),
    }
    for name, (params, module, x) in inputs.items():
        for i in (1, 2, 3):
            x = dense(params["params"][f"{module}{i}"], x)
            x = relu(x) if i < 3 else x
            close(got[f"{name}{i}"], x)


@pytest.mark.parametrize(("name", "stage"), EVERY_CASE)
def test_activations_of_saved_parameters_are_the_same_before_and_after_the_freeze(name, stage, tmp_path):
    agent, state, views, action, activations, expected = make(name, stage)
    for moment, params in {"before": state.params, "after": agent.freeze(state).params}.items():
        files.save_tree(tmp_path / moment, {"params": params})
        got = activations(files.load_tree(tmp_path / moment)["params"], views, action)
        jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_attention_and_similarity_of_a_stage_at_two_times():
    """The parts together: a map over the encoder's input, and the similarity of a stage at two times."""
    _, state, views, action, activations, got = make("curl_sac", "dense")
    later = jax.tree.map(lambda x: 1.1 * x + 0.01, state.params)
    features, later_features = (x["encoder/conv1"] for x in (got, activations(later, views, action)))
    same = svcca(flatten_positions(features), flatten_positions(features))
    assert 0.3 < svcca(flatten_positions(features), flatten_positions(later_features)) < same
    attention = spatial_attention(features)
    assert attention.shape == (8, 6, 6)
    assert overlay(np.asarray(views[0, ..., -3:]), attention[0]).shape == (30, 30, 3)
