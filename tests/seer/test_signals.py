"""Signals of how far an encoder has come."""

import jax
import numpy as np
import pytest

from seer_jax.agents.registry import AGENTS
from seer_jax.seer import signals
from tests.analysis.test_cka import naive_cka
from tests.helpers import agents


def naive_explained_variance(features, values):
    """Ridge regression in its primal form, in float64."""
    features, values = np.asarray(features, np.float64), np.asarray(values, np.float64)
    half = len(features) // 2
    x, y = features - features[:half].mean(axis=0), values - values[:half].mean(axis=0)
    penalty = 1e-2 * np.sum(x[:half] ** 2) / half
    weights = np.linalg.solve(x[:half].T @ x[:half] + penalty * np.eye(x.shape[1]), x[:half].T @ y[:half])
    residual = y[half:] - x[half:] @ weights
    return 1 - np.sum(residual**2) / np.sum((y[half:] - y[half:].mean(axis=0)) ** 2)


@pytest.mark.numeric
def test_explained_variance_is_that_of_a_ridge_regression_on_other_states():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((80, 12)).astype(np.float32) + 1.0
    values = (features @ rng.standard_normal((12, 3)) + rng.standard_normal((80, 3))).astype(np.float32)
    found = signals.explained_variance(features @ features.T, values)
    np.testing.assert_allclose(found, naive_explained_variance(features, values), rtol=1e-4)
    assert 0.5 < found < 1.0
    assert signals.explained_variance(np.zeros((80, 80)), values) == 0.0
    assert signals.explained_variance(features @ features.T, np.ones((80, 3))) == 0.0


def test_an_encoder_of_about_half_the_age_is_kept_of_few():
    kept, most = {}, 0
    for step in range(2000, 400_000, 1000):
        half = signals.half_age(kept, step)
        if step >= 5000:
            assert half is not None
            assert 0.39 * step <= half <= step / 2
        kept = signals.keep(kept, step, f"encoder of {step}")
        assert kept[step] == f"encoder of {step}"
        assert max(kept) == step
        most = max(most, len(kept))
    assert most <= signals.MOST_KEPT


def test_a_sparser_cadence_keeps_what_there_is():
    kept = signals.keep({}, 100, "a")
    kept = signals.keep(kept, 10_000, "b")
    assert kept == {100: "a", 10_000: "b"}
    assert signals.half_age(kept, 10_500) == 100
    assert signals.keep(kept, 30_000, "c") == {10_000: "b", 30_000: "c"}


def test_what_is_kept_does_not_depend_on_the_order_of_what_was():
    kept = {step: str(step) for step in (6000, 7000, 9000)}
    shuffled = {step: kept[step] for step in (9000, 6000, 7000)}
    found = signals.keep(shuffled, 12_000, "now")
    assert list(found.items()) == list(signals.keep(kept, 12_000, "now").items())
    assert list(found) == [6000, 7000, 9000, 12_000]


def test_fields_leave_out_what_compares_with_encoders_that_do_not_exist():
    gram = np.eye(4)
    found = signals.Products(
        gram, dict.fromkeys(("untrained", "half", "previous"), gram), None, {"conv1": (gram, gram)}
    )
    assert set(signals.fields(found, {}, 1000)) == {"drift_untrained"}
    assert set(signals.fields(found, {1000: "a"}, 1500)) == {"drift_untrained", "drift_previous"}
    fields = signals.fields(found._replace(values=np.ones((4, 1))), {1000: "a"}, 2000)
    references = ("untrained", "half", "previous")
    measures = {f"{name}_{reference}" for name in ("drift", "fit") for reference in references}
    assert set(fields) == measures | {"fit", "drift_half_conv1", "half_steps"}
    assert fields["half_steps"] == 1000


@pytest.mark.numeric
@pytest.mark.parametrize(("name", "stages"), [("rainbow", ["conv1"]), ("curl_sac", ["conv1", "conv2"])])
def test_signals_are_those_of_the_encoders_on_the_same_states(name, stages):
    config = agents.small_config(name)
    agent = AGENTS[name].make_agent(config, agents.ACTION_SPECS[name])
    params, other, untrained = (jax.jit(agent.init)(jax.random.PRNGKey(i)).params for i in range(3))
    references = signals.References(*map(signals.encoder_of, (untrained, other, params)))
    channels = 4 if name == "rainbow" else 9
    shape = (128, config.env.image_size, config.env.image_size, channels)
    obs = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    found, whole = (
        signals.fields(jax.jit(signals.make_compare(agent, chunk=chunk))(params, references, obs), {1: other}, 2)
        for chunk in (32, 128)
    )
    assert found == pytest.approx(whole, abs=2e-5)

    views = agent.view(obs)
    latents = agent.encode(params, views)
    now, values = np.reshape(latents, (128, -1)), agent.values(params, latents)
    for reference, encoder in references._asdict().items():
        then = np.reshape(agent.encode(params | encoder, views), (128, -1))
        np.testing.assert_allclose(found[f"drift_{reference}"], 1 - naive_cka(then, now), atol=1e-5)
        np.testing.assert_allclose(found[f"fit_{reference}"], naive_explained_variance(then, values), atol=1e-3)
    assert found["drift_previous"] < 1e-5 < 1e-3 < found["drift_half"]
    np.testing.assert_allclose(found["fit"], found["fit_previous"], atol=1e-5)
    assert [key for key in found if key.startswith("drift_half_")] == [f"drift_half_{stage}" for stage in stages]
    assert found["drift_half_conv1"] > 1e-3
