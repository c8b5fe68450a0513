"""The environments of the seeds of a run."""

import dataclasses

import pytest

from seer_jax.envs import registry
from seer_jax.run.resolve import resolve
from tests.helpers.runs import tiny_config


@pytest.mark.parametrize("training", [True, False])
def test_each_seed_has_the_environments_that_it_has_alone(monkeypatch, training):
    suite = dataclasses.replace(registry.SUITES["atari"], make_env=lambda env, *, seeds, training: (seeds, training))
    monkeypatch.setitem(registry.SUITES, "atari", suite)
    config = resolve(tiny_config(seed=3, num_envs=2, eval_episodes=4))
    pools = [0, 70, 50]
    alone = [
        registry.make_env(dataclasses.replace(config, seed=seed), training=training, pools=[pool])
        for seed, pool in zip((3, 4, 5), pools, strict=True)
    ]
    together = registry.make_env(config, training=training, pools=pools)
    assert together == ([seed for seeds, _ in alone for seed in seeds], training)
    assert len(set(together[0])) == 3 * (2 if training else 4)
