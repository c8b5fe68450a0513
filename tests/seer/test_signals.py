"""Signals of how far an encoder has come."""

import jax
import numpy as np
import pytest

from seer_jax.agents.registry import AGENTS
from seer_jax.seer import signals
from tests.analysis.test_cka import naive_cka
from tests.helpers import agents


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
    found = signals.Products(gram, gram, gram, {"conv1": (gram, gram)})
    assert set(signals.fields(found, {}, 1000)) == {"drift_untrained"}
    assert set(signals.fields(found, {1000: "a"}, 1500)) == {"drift_untrained"}
    fields = signals.fields(found, {1000: "a"}, 2000)
    assert set(fields) == {"drift_untrained", "drift_half", "drift_half_conv1", "half_steps"}
    assert fields["half_steps"] == 1000


@pytest.mark.numeric
@pytest.mark.parametrize(("name", "stages"), [("rainbow", ["conv1"]), ("curl_sac", ["conv1", "conv2"])])
def test_signals_are_those_of_the_encoders_on_the_same_states(name, stages):
    config = agents.small_config(name)
    agent = AGENTS[name].make_agent(config, agents.ACTION_SPECS[name])
    params, other, untrained = (jax.jit(agent.init)(jax.random.PRNGKey(i)).params for i in range(3))
    references = signals.References(*map(signals.encoder_of, (untrained, other)))
    channels = 4 if name == "rainbow" else 9
    shape = (128, config.env.image_size, config.env.image_size, channels)
    obs = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    found, whole = (
        signals.fields(jax.jit(signals.make_compare(agent, chunk=chunk))(params, references, obs), {1: other}, 2)
        for chunk in (32, 128)
    )
    assert found == pytest.approx(whole, abs=2e-5)

    views = agent.view(obs)
    now = np.reshape(agent.encode(params, views), (128, -1))
    for reference, encoder in references._asdict().items():
        then = np.reshape(agent.encode(params | encoder, views), (128, -1))
        np.testing.assert_allclose(found[f"drift_{reference}"], 1 - naive_cka(then, now), atol=1e-5)
    assert found["drift_half"] > 1e-3
    assert [key for key in found if key.startswith("drift_half_")] == [f"drift_half_{stage}" for stage in stages]
    assert found["drift_half_conv1"] > 1e-3
