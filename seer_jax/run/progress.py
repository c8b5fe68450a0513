"""The progress of a run on the host: counters, cost and time, all of which a checkpoint keeps."""

import collections
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from seer_jax import flops
from seer_jax.seer.phases import FULL

_RECENT_EPISODES = 20


class Clock:
    """Wall time of a run, and the time and agent steps of each phase, without work that is not training.

    Args:
      saved: state of another clock, from `to_json`, to continue from.
    """

    def __init__(self, saved: dict[str, Any] | None = None) -> None:
        saved = saved or {"elapsed": 0.0, "steps": {}, "seconds": {}, "booked": 0}
        self._since = time.monotonic()
        self._birth = self._since - saved["elapsed"]
        self._booked_steps: int = saved["booked"]
        self._steps: dict[str, int] = saved["steps"]
        self._seconds: dict[str, float] = saved["seconds"]

    def to_json(self) -> dict[str, Any]:
        """Returns the state, for a later clock."""
        return {"elapsed": self.elapsed, "steps": self._steps, "seconds": self._seconds, "booked": self._booked_steps}

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was made, those of earlier clocks included."""
        return time.monotonic() - self._birth

    def book(self, phase: str, env_steps: int) -> None:
        """Counts time and steps since the last `book` or `skip` to `phase`."""
        now = time.monotonic()
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._since
        self._steps[phase] = self._steps.get(phase, 0) + env_steps - self._booked_steps
        self._since, self._booked_steps = now, env_steps

    def skip(self) -> None:
        """Counts the time since the last `book` to no phase."""
        self._since = time.monotonic()

    def steps_per_second(self, phase: str) -> float | None:
        """Returns the speed of a phase in agent steps per second; None while no step of it is counted."""
        steps = self._steps.get(phase)
        return steps / self._seconds[phase] if steps else None


@dataclasses.dataclass
class Progress:
    """Counters of a run.

    Attributes:
      phase: name of the current phase.
      env_steps: agent steps so far.
      steps_before: agent steps before the last vector step.
      updates: updates so far.
      updates_since: from what the replay ratio counts, as in `pace.Due`; None stands for `learn_start` and no updates.
      resets_since: updates from which on the period of resets counts; None stands for 0.
      rows: rows in the ring, over all environments.
      pool: checkpoints so far, written or tried; at each the environments are rebuilt.
      ledger: cost so far.
      costs: for each phase that has begun, its cost per step and the size of its ring.
      last_signal: agent steps of the last signal; None without one.
      evals: the records of the first and the last evaluation.
      best: agent steps and mean return of the best evaluation whose training state was kept; None without one.
      info: metrics of the last update.
      recent: returns of the last training episodes.
      clock: time so far.
    """

    phase: str = FULL
    env_steps: int = 0
    steps_before: int = 0
    updates: int = 0
    updates_since: list[int] | None = None
    resets_since: int | None = None
    rows: int = 0
    pool: int = 0
    ledger: flops.Ledger = dataclasses.field(default_factory=flops.Ledger)
    costs: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    last_signal: int | None = None
    evals: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: dict[str, float] | None = None
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recent: collections.deque[float] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=_RECENT_EPISODES)
    )
    clock: Clock = dataclasses.field(default_factory=Clock)

    def to_json(self) -> dict[str, Any]:
        """Returns the counters, for the manifest of a checkpoint."""
        counters = (
            "phase",
            "env_steps",
            "steps_before",
            "updates",
            "updates_since",
            "resets_since",
            "rows",
            "pool",
            "last_signal",
        )
        return {name: getattr(self, name) for name in counters} | {
            "clock": self.clock.to_json(),
            "ledger": self.ledger.to_json(),
            "costs": self.costs,
            "evals": self.evals,
            "best": self.best,
            "info": {name: float(value) for name, value in self.info.items()},
            "recent": list(self.recent),
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Progress":
        """Returns the progress that `to_json` gave; other entries of `saved` are ignored."""
        names = ("phase", "env_steps", "updates", "rows", "pool", "costs", "evals", "best", "info")
        plain = {name: saved[name] for name in names}
        plain["steps_before"] = steps_before(saved)
        plain["updates_since"] = saved.get("updates_since")
        plain["resets_since"] = saved.get("resets_since")
        plain["last_signal"] = saved.get("last_signal")  # version 0.3.0 had none
        recent = collections.deque(saved["recent"], maxlen=_RECENT_EPISODES)
        ledger, clock = flops.Ledger(saved["ledger"]), Clock(saved["clock"])
        return cls(**plain, recent=recent, ledger=ledger, clock=clock)


def steps_before(saved: dict[str, Any]) -> int:
    """Returns the agent steps before the last vector step of a progress that `to_json` gave.

    Version 0.3.0 did not save them. They are then the most that they can be if that step was one.
    """
    return saved.get("steps_before", saved["env_steps"] - 1)
