"""Attention maps, SVCCA against constructed cases and a twin, and the activations of both agents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.agents.registry import AGENTS
from seer_jax.analysis.activations import make_activations
from seer_jax.analysis.attention import overlay, spatial_attention
from seer_jax.analysis.svcca import flatten_positions, svcca
from seer_jax.run import checkpoint
from tests import test_curl_sac, test_rainbow


def naive_spatial_attention(features):
    height, width, channels = features.shape
    means = {(i, j): sum(abs(features[i, j])) / channels for i in range(height) for j in range(width)}
    total = sum(np.exp(mean) for mean in means.values())
    return [[np.exp(means[i, j]) / total for j in range(width)] for i in range(height)]


def test_attention_is_a_softmax_of_mean_absolute_activations():
    features = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6))
    maps = spatial_attention(jnp.asarray(features, jnp.float32))
    assert maps.shape == (2, 3, 4, 5)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(maps[i, j], naive_spatial_attention(features[i, j]), rtol=1e-5)


def test_attention_sees_size_not_sign_and_does_not_overflow():
    features = np.full((2, 3, 4), -0.1, np.float32)
    features[1, 2] = [-500, 500, -500, 500]
    hot = spatial_attention(jnp.asarray(features))
    np.testing.assert_allclose(hot.sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(hot[1, 2], 1.0, rtol=1e-6)
    np.testing.assert_allclose(spatial_attention(jnp.zeros((2, 3, 4))), 1 / 6, rtol=1e-6)


def test_attention_refuses_features_without_positions():
    with pytest.raises(ValueError, match=r"shape \[8, 16\] have no positions"):
        spatial_attention(jnp.zeros((8, 16)))


def test_overlay_colours_where_the_map_is_high():
    frame = np.full((12, 18), 100, np.uint8)
    attention = jnp.zeros((2, 3)).at[0, 2].set(0.7)
    picture = overlay(frame, attention)
    assert picture.shape == (12, 18, 3)
    assert picture.dtype == np.uint8
    # Half of black, the least of the colour map, and half of the grey; and the map's brightest in the hottest corner.
    np.testing.assert_allclose(picture[-1, 0], 50, atol=2)
    np.testing.assert_allclose(picture[0, -1], 0.5 * 100 + 0.5 * np.asarray([252, 255, 164]), atol=1)
    green = picture[..., 1].astype(int)
    assert np.all(np.diff(green[0]) >= 0)  # colours change gradually towards that corner
    assert len(np.unique(green[0])) > 4
    assert (frame == 100).all()


def test_overlay_depends_on_a_maps_order_not_on_its_range():
    rng = np.random.default_rng(0)
    frame, attention = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8), rng.uniform(size=(5, 5))
    picture = overlay(frame, jnp.asarray(attention))
    # Not exactly: rounding of the map may take it over the border between two colours.
    shifted = overlay(frame, jnp.asarray(3e-3 * attention + 0.01)).astype(int)
    np.testing.assert_allclose(shifted, picture, atol=4)
    flat, least = overlay(frame, jnp.full((5, 5), 0.04)), np.asarray([0.4, 0.1, 3.5])
    np.testing.assert_allclose(flat, 0.5 * frame + 0.5 * least, atol=0.6)


def test_overlay_of_grey_is_that_of_three_equal_channels():
    rng = np.random.default_rng(1)
    frame, attention = rng.integers(0, 256, (9, 11)).astype(np.uint8), jnp.asarray(rng.uniform(size=(3, 4)))
    picture = overlay(np.repeat(frame[..., None], 3, axis=2), attention)
    np.testing.assert_array_equal(overlay(frame, attention), picture)


@pytest.mark.parametrize(
    ("frame", "attention", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), jnp.zeros((2, 2)), r"frame is uint8\[4, 4, 4\]"),
        (np.zeros((4, 4), np.float32), jnp.zeros((2, 2)), r"frame is float32\[4, 4\]"),
        (np.zeros((4, 4), np.uint8), jnp.zeros((1, 2, 2)), r"shape \[1, 2, 2\] is not one map"),
    ],
)
def test_overlay_refuses_what_is_not_a_frame_and_a_map(frame, attention, message):
    with pytest.raises(ValueError, match=message):
        overlay(frame, attention)


def gaussians(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def orthogonal(size, seed=0):
    return np.linalg.qr(gaussians(size, size, seed=seed))[0]


def naive_svcca(x, y, variance):
    """By covariances: principal components, and eigenvalues of Cxx^-1 Cxy Cyy^-1 Cyx, squared correlations."""

    def reduce(x):
        x = x - x.mean(axis=0)
        values, vectors = np.linalg.eigh(x.T @ x)
        values, vectors = values[::-1], vectors[:, ::-1]
        kept = next(k for k in range(1, len(values) + 1) if values[:k].sum() >= (variance - 1e-12) * values.sum())
        return x @ vectors[:, :kept]

    x, y = reduce(x), reduce(y)
    cxx, cxy, cyy = x.T @ x, x.T @ y, y.T @ y
    squares = np.linalg.eigvals(np.linalg.inv(cxx) @ cxy @ np.linalg.inv(cyy) @ cxy.T).real
    largest = np.sort(squares)[::-1][: min(x.shape[1], y.shape[1])]
    return np.sqrt(np.clip(largest, 0, 1)).mean()


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_svcca_equals_the_twin(seed, variance):
    rng = np.random.default_rng(seed)
    size_x, size_y, shared = rng.integers(2, 12, 3)
    common = rng.normal(size=(200, shared))
    x, y = (
        common @ rng.normal(size=(shared, size)) + rng.uniform(0.1, 2) * rng.normal(size=(200, size)) + 5.0
        for size in (size_x, size_y)
    )
    got = svcca(x, y, variance)
    np.testing.assert_allclose(got, naive_svcca(x, y, variance), rtol=1e-6)
    np.testing.assert_allclose(svcca(y, x, variance), got, rtol=1e-9)


def test_svcca_of_a_layer_with_itself_is_one():
    x = gaussians(300, 10)
    for variance in (0.5, 0.99, 1.0):
        np.testing.assert_allclose(svcca(x, x, variance), 1.0, rtol=1e-9)
        np.testing.assert_allclose(svcca(x, 3 * x @ orthogonal(10) - 7, variance), 1.0, rtol=1e-9)
    np.testing.assert_allclose(svcca(x, x @ gaussians(10, 10, seed=1) + 2, 1.0), 1.0, rtol=1e-9)
    assert max(svcca(x, x) for x in gaussians(30, 300, 10)) <= 1.0  # rounding takes half of them past it


def test_svcca_of_unrelated_layers_is_what_chance_gives():
    """Singular values of the product of random bases follow a quarter circle, whose mean is 8/(3 pi) sqrt(F/N)."""
    x, y = gaussians(4000, 40), gaussians(4000, 40, seed=1)
    np.testing.assert_allclose(svcca(x, y, 1.0), 8 / (3 * np.pi) * 0.1, rtol=0.03)


def test_svcca_of_layers_that_share_half_their_directions_is_a_half():
    shared, x_own, y_own = gaussians(3, 20_000, 10)
    x = np.concatenate([shared, x_own], axis=1) @ orthogonal(20)
    y = np.concatenate([y_own, shared], axis=1) @ orthogonal(20, seed=1)
    np.testing.assert_allclose(svcca(x, y, 1.0), 0.5, atol=0.015)


def test_svcca_is_a_mean_over_the_smaller_spaces_directions():
    x = gaussians(500, 12)
    np.testing.assert_allclose(svcca(x, x[:, :4], 1.0), 1.0, rtol=1e-9)


def test_svcca_ignores_what_holds_less_variance_than_is_dropped():
    signal, *noises = gaussians(3, 2000, 20)
    signal[:, 4:] = 0
    x, y = (signal + 0.01 * noise for noise in noises)
    assert svcca(x, y, 0.99) > 0.999
    assert svcca(x, y, 1.0) < 0.35


@pytest.mark.parametrize(("second", "expected"), [(1.0, 1.0), (1.01, 0.5)])
def test_svcca_keeps_the_fewest_directions_by_variance(second, expected):
    """Standard deviations of 9.95 and 1 are 0.99 and 0.01 of the variance: the second direction just goes, or stays."""
    first, x_own, y_own = gaussians(3, 100) - gaussians(3, 100).mean(axis=1, keepdims=True)
    first, x_own, y_own = np.linalg.qr(np.stack([first, x_own, y_own], axis=1))[0].T  # exactly uncorrelated
    x, y = (np.stack([9.95 * first, second * own], axis=1) for own in (x_own, y_own))
    np.testing.assert_allclose(svcca(x, y, 0.99), expected, atol=1e-9)


def test_svcca_is_not_moved_by_dead_repeated_or_offset_features():
    x, y = gaussians(300, 6), gaussians(300, 6, seed=1)
    x += 0.5 * y
    expected = svcca(x, y, 1.0)
    dead = np.concatenate([x, np.full((300, 3), 0.1), np.zeros((300, 1)), x[:, :2] + x[:, 2:4]], axis=1)
    np.testing.assert_allclose(svcca(dead, y, 1.0), expected, rtol=1e-9)
    np.testing.assert_allclose(svcca(x + 1e6, y, 1.0), expected, rtol=1e-6)


def test_svcca_reads_float32_of_the_device():
    x, y = jax.random.normal(jax.random.PRNGKey(0), (2, 100, 5))
    np.testing.assert_allclose(svcca(x, y), svcca(np.float64(x), np.float64(y)), rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "variance", "message"),
    [
        (gaussians(50, 3), gaussians(49, 3), 0.99, r"x has shape \[50, 3\] and y \[49, 3\]"),
        (gaussians(50, 2, 2, 3), gaussians(50, 3), 0.99, r"x has shape \[50, 2, 2, 3\]"),
        (gaussians(50, 3), gaussians(50, 3), 0.0, "variance=0.0 is no fraction"),
        (gaussians(50, 3), gaussians(50, 3), 99, "variance=99 is no fraction"),
        (gaussians(50, 3), np.full((50, 3), 0.1), 0.99, "nothing varies in y over its 50 inputs"),
        (gaussians(1, 3), gaussians(1, 3), 0.99, "nothing varies in x over its 1 inputs"),
        (gaussians(50, 3), np.full((50, 3), np.nan), 0.99, "y holds values that are not finite"),
        (gaussians(20, 10), gaussians(20, 10, seed=1), 1.0, r"N=20 inputs are too few for the 10 \+ 10 directions"),
        (gaussians(20, 64), gaussians(20, 2, seed=1), 1.0, r"N=20 inputs are too few for the 19 \+ 2 directions"),
    ],
)
def test_svcca_refuses(x, y, variance, message):
    with pytest.raises(ValueError, match=message):
        svcca(x, y, variance)


def test_svcca_accepts_just_enough_inputs():
    assert svcca(gaussians(21, 10), gaussians(21, 10, seed=1), 1.0) < 1.0


def test_positions_of_a_convolution_become_inputs():
    features = gaussians(2, 3, 4, 5)
    rows = [features[n, i, j] for n in range(2) for i in range(3) for j in range(4)]
    np.testing.assert_array_equal(flatten_positions(features), rows)
    with pytest.raises(ValueError, match=r"shape \[2, 5\]: expected \[N, H, W, C\]"):
        flatten_positions(gaussians(2, 5))


CUTS = {"rainbow": ("conv2", "conv1"), "curl_sac": ("dense", "conv1")}
EVERY_CUT = [(name, cut) for name, cuts in CUTS.items() for cut in cuts]


@functools.cache
def make(name, cut):
    """Returns an agent, its state, views and actions, the compiled function, and the activations that it returns."""
    if name == "rainbow":
        config, action_spec = test_rainbow.small_config(), test_rainbow.ACTIONS
        batch, action = test_rainbow.random_batch(), None
    else:
        config, action_spec = test_curl_sac.small_config(), test_curl_sac.ACTION_SPEC
        batch = test_curl_sac.random_batch()
        action = batch.action
    config.seer.freeze_through = cut
    config.agent.eval_epsilon = 0.0
    agent = AGENTS[name].make_agent(config, action_spec)
    # Parameters of which no bias is 0, and observations of all brightnesses, so that actions differ.
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(agent.init, jax.random.PRNGKey(0))
    state = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), shapes)
    obs = (batch.obs * np.linspace(0, 1, 8)[:, None, None, None]).astype(np.uint8)
    views, activations = agent.view(obs), make_activations(config, action_spec)
    return agent, state, views, action, activations, activations(state.params, views, action)


@functools.cache
def latents_and_actions(name, cut):
    agent, state, views, *_ = make(name, cut)
    latents = jax.jit(agent.encode)(state.params, views)
    return latents, jax.jit(agent.act_eval)(state.params, latents, jax.random.PRNGKey(1))


@pytest.mark.parametrize(("name", "cut"), EVERY_CUT)
def test_the_encoders_activations_are_the_latents(name, cut):
    *_, got = make(name, cut)
    latents, _ = latents_and_actions(name, cut)
    ends = ["encoder/dense", "actor_encoder/dense"] if cut == "dense" else [f"encoder/{cut}"]
    flat = np.stack([np.reshape(got[end], (8, -1)) for end in ends], axis=1)
    np.testing.assert_allclose(flat, latents, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "cut"), EVERY_CUT)
def test_names_do_not_depend_on_the_cut_and_leave_no_layer_out(name, cut):
    *_, got = make(name, cut)
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


@pytest.mark.parametrize("cut", CUTS["rainbow"])
def test_rainbows_head_is_the_one_that_acts_without_noise(cut):
    _, state, *_, got = make("rainbow", cut)
    _, acted = latents_and_actions("rainbow", cut)
    q = np.asarray(jax.nn.softmax(got["heads/logits"])) @ test_rainbow.SUPPORT
    np.testing.assert_array_equal(q.argmax(axis=1), acted)
    assert len(np.unique(acted)) > 1

    layers, latent = state.params["heads"]["params"], got["encoder/conv2"].reshape(8, -1)
    for stream in ("value", "advantage"):
        hidden = relu(dense(layers[f"{stream}_hidden"], latent))
        close(got[f"heads/{stream}_hidden"], hidden)
        close(got[f"heads/{stream}"], dense(layers[stream], hidden))
    advantage = got["heads/advantage"].reshape(8, test_rainbow.NUM_ACTIONS, -1)
    close(got["heads/logits"], got["heads/value"][:, None] + advantage - advantage.mean(axis=1, keepdims=True))


@pytest.mark.parametrize("cut", CUTS["curl_sac"])
def test_curls_heads_are_those_that_act_and_judge(cut):
    _, state, _, action, _, got = make("curl_sac", cut)
    _, acted = latents_and_actions("curl_sac", cut)
    np.testing.assert_allclose(np.tanh(got["actor/fc3"][:, :2]), acted, rtol=1e-5, atol=1e-5)

    judged = np.concatenate([got["encoder/dense"], action], axis=1)
    inputs = {
        "critic/q1_fc": (state.params["critic"], "q1_", judged),
        "critic/q2_fc": (state.params["critic"], "q2_", judged),
        "actor/fc": (state.params["actor"], "policy", got["actor_encoder/dense"]),
    }
    for name, (params, module, x) in inputs.items():
        for i in (1, 2, 3):
            x = dense(params["params"][f"{module}{i}"], x)
            x = relu(x) if i < 3 else x
            close(got[f"{name}{i}"], x)


@pytest.mark.parametrize(("name", "cut"), EVERY_CUT)
def test_saved_parameters_give_the_same_before_the_freeze_and_after_it(name, cut, tmp_path):
    agent, state, views, action, activations, expected = make(name, cut)
    for moment, params in {"before": state.params, "after": agent.freeze(state).params}.items():
        checkpoint.save_state(tmp_path / moment, {"params": params})
        got = activations(checkpoint.load_state(tmp_path / moment)["params"], views, action)
        jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_maps_and_similarity_of_a_stage():
    """The parts together: a map over what the encoder was shown, and the similarity of a stage at two times."""
    _, state, views, action, activations, got = make("curl_sac", "dense")
    later = jax.tree.map(lambda x: 1.1 * x + 0.01, state.params)
    features, later_features = (x["encoder/conv1"] for x in (got, activations(later, views, action)))
    same = svcca(flatten_positions(features), flatten_positions(features))
    assert 0.3 < svcca(flatten_positions(features), flatten_positions(later_features)) < same
    attention = spatial_attention(features)
    assert attention.shape == (8, 6, 6)
    assert overlay(np.asarray(views[0, ..., -3:]), attention[0]).shape == (30, 30, 3)
