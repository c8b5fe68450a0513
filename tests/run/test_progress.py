"""The clock of the phases, and progress through JSON."""

import collections
import json

import jax.numpy as jnp
import pytest

from seer_jax import flops
from seer_jax.run import progress
from seer_jax.run.progress import Clock, Progress


@pytest.fixture
def now(monkeypatch):
    """A list that holds the time in seconds."""
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def test_clock_counts_phases_apart_and_skips_what_is_not_training(now):
    clock = Clock()
    for phase, seconds, steps in (("full", 10, 50), ("full", 5, 100), ("frozen", 2, 160)):
        now[0] += seconds
        clock.book(phase, steps)
        now[0] += 1000  # an evaluation
        clock.skip()
    assert clock.steps_per_second("full") == pytest.approx(100 / 15)
    assert clock.steps_per_second("frozen") == pytest.approx(60 / 2)
    assert clock.elapsed == pytest.approx(3017)


def test_clock_has_no_speed_before_the_first_step_of_a_phase(now):
    clock = Clock()
    assert clock.steps_per_second("full") is None
    now[0] += 1
    clock.book("full", 0)
    assert clock.steps_per_second("full") is None


def test_clock_that_continues_another_leaves_out_the_time_between_them(now):
    first = Clock()
    now[0] += 10
    first.book("full", 50)
    saved = json.loads(json.dumps(first.to_json()))
    now[0] += 5000  # no process runs
    second = Clock(saved)
    now[0] += 5
    second.book("full", 100)
    assert second.elapsed == pytest.approx(15)
    assert second.steps_per_second("full") == pytest.approx(100 / 15)


def test_progress_survives_json(now):
    ledger = flops.Ledger()
    ledger.add({"update": flops.Cost(3.0, 2.0)})
    clock = Clock()
    now[0] += 4
    clock.book("frozen", 8)
    began = Progress(
        phase="frozen",
        env_steps=8,
        updates=7,
        rows=6,
        pool=5,
        ledger=ledger,
        costs={"full": {"replay_bytes": 4.0}},
        evals=[{"env_steps": 3, "eval_return_mean": 2.5}],
        info={"loss": jnp.float32(0.5)},
        recent=collections.deque([1.0, 2.0], maxlen=20),
        clock=clock,
    )
    saved = json.loads(json.dumps(began.to_json()))
    continued = Progress.from_json(saved | {"metrics_bytes": 12})
    assert continued.to_json() == saved
    assert (continued.phase, continued.env_steps, continued.updates) == ("frozen", 8, 7)
    assert (continued.rows, continued.pool, continued.info) == (6, 5, {"loss": 0.5})
    assert continued.ledger.total == flops.Cost(3.0, 2.0)
    assert continued.clock.steps_per_second("frozen") == 2.0


def test_recent_episodes_of_progress_from_json_are_as_limited_as_before():
    began = Progress()
    continued = Progress.from_json(json.loads(json.dumps(began.to_json())))
    for score in range(100):
        began.recent.append(float(score))
        continued.recent.append(float(score))
    assert list(began.recent) == list(continued.recent) == [float(score) for score in range(80, 100)]
