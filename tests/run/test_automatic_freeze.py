"""`seer.freeze_step=auto`: a share of the run, which its configuration holds as a number from the start."""

import functools

import pytest
from ml_collections import ConfigDict

from seer_jax import train
from seer_jax.config import FREEZE_SHARE
from seer_jax.fields import ConfigError
from seer_jax.run import run_dir
from seer_jax.run.resolve import resolve
from tests.helpers.record_factories import write_run_dir
from tests.helpers.runs import records, tiny_config

automatic = functools.partial(
    tiny_config, total_steps=1000, learn_start=30, seer__freeze_step="auto", seer__freeze_after=None
)
STEP = round(FREEZE_SHARE * 1000)


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({}, STEP),
        ({"total_steps": 2000}, 2 * STEP),
        ({"seer__freeze_after": STEP + 1}, STEP + 1),
        ({"seer__freeze_after": STEP - 1, "seer__freeze_before": STEP + 1}, STEP),
        ({"seer__freeze_before": STEP - 1}, STEP - 1),
        ({"seer__freeze_after": 300, "seer__freeze_before": 300}, 300),
        ({"num_seeds": 2}, STEP),
        ({"seer__freeze_step": 200, "seer__freeze_after": 300}, 200),  # bounds of an automatic freeze alone
    ],
)
def test_automatic_freeze_is_a_share_of_the_run_within_its_bounds(changes, step):
    config = resolve(automatic(**changes))
    assert (config.seer.freeze_step, config.full_steps) == (step, step)
    assert resolve(ConfigDict(config.to_dict())) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seer__freeze_after": 200, "seer__freeze_before": 150},
            r"seer\.freeze_after=200 is past seer\.freeze_before=150; lower it",
        ),
        ({"seer__freeze_after": 1001}, r"seer\.freeze_after=1001 is past total_steps=1000; lower it"),
        ({"seer__freeze_step": "soon"}, r"seer\.freeze_step='soon' is not an integer or 'auto'"),
        (
            {"learn_start": STEP},
            rf"freeze_step={STEP}, {FREEZE_SHARE:g} of total_steps=1000, is not past learn_start={STEP}:",
        ),
        ({"seer__freeze_before": 32}, r"seer\.freeze_step=32 is not past learn_start=30: an untrained encoder"),
        ({"seer__freeze_after": 997}, r"seer\.freeze_step=997 is past total_steps=1000: the encoder would never"),
    ],
)
def test_automatic_freeze_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        resolve(automatic(**changes))


def test_run_of_an_automatic_freeze_goes_on_to_a_later_end_only_with_the_same_freeze(fake_envs, tmp_path):
    train.run(automatic(), tmp_path / "run")
    (freeze,) = [record for record in records(tmp_path / "run") if record["kind"] == "freeze"]
    assert STEP <= freeze["env_steps"] < STEP + automatic().num_envs
    with pytest.raises(ConfigError, match=rf"seer\.freeze_step={STEP} there and {round(FREEZE_SHARE * 1100)} here"):
        train.run(automatic(total_steps=1100), tmp_path / "run", resume=True)
    longer = automatic(total_steps=1100, seer__freeze_step=STEP)
    assert train.run(longer, tmp_path / "run", resume=True)["env_steps"] >= 1100


def test_time_of_a_freeze_is_no_difference_without_seer(tmp_path):
    config = resolve(automatic(seer__enabled=False))
    stored = config.to_dict()
    stored["seer"] |= {"freeze_step": 50_000}  # as versions stored it whose default it was
    del stored["seer"]["freeze_after"]
    write_run_dir(tmp_path / "run", [], stored)
    assert run_dir.differences(config, tmp_path / "run") == {}
    fork = resolve(automatic())
    assert run_dir.differences(fork, tmp_path / "run") == {
        "seer.enabled": [False, True],
        "seer.freeze_step": [None, STEP],
        "seer.signal_every": [0, 1000],
    }
