"""Scores and lengths of running episodes."""

import numpy as np

from seer_jax.run.episodes import EpisodeTracker
from tests.helpers.fake_env import FakeEnv

ONE, BOTH = np.ones(1, bool), np.ones(2, bool)


def test_each_episode_is_counted_when_it_ends_with_its_raw_score():
    env, tracker = FakeEnv([3, 5], training=True), EpisodeTracker(2)
    env.reset()
    ended = [list(tracker.add(env.step(np.zeros(2, int)), BOTH)) for _ in range(13)]
    # The reset after an episode takes a step of its own, which is no step of the next episode.
    assert [at for at, episodes in enumerate(ended, start=1) if episodes] == [3, 5, 7, 11]
    assert ended[2] == ended[6] == [(0, 30.0, 3)]
    assert ended[4] == [(1, 50.0, 5)]
    assert ended[10] == [(0, 30.0, 3), (1, 50.0, 5)]


def test_reset_drops_running_episodes():
    env, tracker = FakeEnv([4], training=True), EpisodeTracker(1)
    env.reset()
    for _ in range(3):
        assert not list(tracker.add(env.step(np.zeros(1, int)), ONE))
    tracker.reset()
    env.reset()
    ended = [list(tracker.add(env.step(np.zeros(1, int)), ONE)) for _ in range(4)]
    assert ended == [[], [], [], [(0, 40.0, 4)]]


def test_environments_that_were_not_stepped_are_not_counted():
    env, tracker = FakeEnv([3, 5], training=True), EpisodeTracker(2)
    env.reset()
    lanes = np.array([True, False])
    ended = [list(tracker.add(env.step_some(np.zeros(2, int), lanes), lanes)) for _ in range(3)]
    assert ended == [[], [], [(0, 30.0, 3)]]
