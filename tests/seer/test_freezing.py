"""The rule that decides when to freeze."""

import pytest

from seer_jax.run.resolve import resolve
from seer_jax.seer import freezing
from tests.helpers.runs import tiny_config


def signal(env_steps, half, untrained=0.2):
    return {"env_steps": env_steps, "drift_half": half, "drift_untrained": untrained, "half_steps": env_steps // 2}


@pytest.mark.parametrize(
    ("fields", "settled"),
    [
        (signal(2000, 0.019), True),
        (signal(2000, 0.021), False),
        (signal(2000, 0.0019, untrained=0.02), True),
        (signal(2000, 0.0021, untrained=0.02), False),
        ({"env_steps": 2000, "drift_untrained": 0.2}, False),  # too young to have half an age
        (signal(2000, 0.0, untrained=0.0), False),  # not trained at all
        (signal(2000, 1e-8, untrained=1e-6), False),  # rounding
    ],
)
def test_encoder_settles_when_half_of_its_life_changed_little_of_it(fields, settled):
    assert freezing.has_settled(fields) == settled


def test_only_an_automatic_freeze_follows_signals_and_not_before_its_bound():
    settled = [signal(100, 0.1), signal(200, 0.001)]
    assert freezing.is_settled(resolve(tiny_config(seer__freeze_step="auto")), settled)
    assert not freezing.is_settled(resolve(tiny_config(seer__freeze_step="auto")), settled[:1])
    assert not freezing.is_settled(resolve(tiny_config(seer__freeze_step="auto")), [])
    assert not freezing.is_settled(resolve(tiny_config(seer__freeze_step="auto", seer__freeze_after=201)), settled)
    assert not freezing.is_settled(resolve(tiny_config()), settled)


@pytest.mark.parametrize(
    ("changes", "bounds"),
    [
        ({}, (200, 200)),
        ({"seer__enabled": False}, (400, 400)),
        ({"seer__freeze_step": "auto"}, (80, 400)),
        ({"seer__freeze_step": "auto", "seer__freeze_after": 120, "seer__freeze_before": 300}, (120, 300)),
        ({"seer__freeze_step": "auto", "seer__enabled": False}, (400, 400)),
    ],
)
def test_bounds_of_the_freeze(changes, bounds):
    assert resolve(tiny_config(**changes)).freeze_bounds == bounds
