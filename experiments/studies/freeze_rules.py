"""Rules that say when to freeze, as functions of the signals of a run: those that were tried.

No rule has a parameter that depends on a task. `experiments.paper.freeze_time` judges them by what they cost.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

_UNTRAINED_DRIFT = 1e-3  # below this an encoder is an untrained one, whose drift consists of rounding

Signals = Sequence[Mapping[str, float]]  # in order; agent steps and fields of each


class Rule(NamedTuple):
    """A rule.

    Attributes:
      name: says when it freezes.
      decide: `(signals, length) -> agent steps` at which it freezes; None if it never does.
      needs: field of signals that it looks at; runs of this version do not measure those of all rules that were tried.
    """

    name: str
    decide: Callable[[Signals, "Length"], int | None]
    needs: str | None = None

    def can_decide(self, signals: Signals) -> bool:
        """Returns whether the signals of a run have what the rule looks at."""
        return self.needs is None or any(self.needs in signal for signal in signals)


Length = Callable[[int], float]  # the `total_steps` of a run, by the agent step of its freeze
Test = Callable[[Mapping[str, float]], bool]  # of a signal


def _first(holds: Test, signals: Signals, length: Length, *, times: int = 1, latest: float = 1.0) -> int | None:
    """Returns the agent steps of the first signal that ends a series of so many of which a test holds.

    Args:
      holds: the test.
      signals: of a run.
      length: of the run. A run that ends when its budget is spent is longer if it freezes earlier.
      times: length of the series.
      latest: share of the run at which the rule freezes anyway, below 1.
    """
    series = 0
    for signal in signals:
        step = int(signal["env_steps"])
        series = series + 1 if holds(signal) else 0
        if series == times or (latest < 1 and step >= latest * length(step)):
            return step
    return None


def _at_share(signals: Signals, length: Length, *, share: float) -> int:
    """Returns the agent steps that are a share of the run, as `seer.freeze_step=auto` takes them, rounded up."""
    del signals
    return next(step for step in itertools.count() if step >= share * length(step))


def _has_learned(signal: Mapping[str, float]) -> bool:
    """Returns whether the encoder differs from an untrained one by more than rounding."""
    return signal["drift_untrained"] >= _UNTRAINED_DRIFT


def _has_settled(signal: Mapping[str, float], *, share: float) -> bool:
    """Returns whether the drift since half the age is less than a share of that since the encoder was untrained."""
    return _has_learned(signal) and signal.get("drift_half", math.inf) < share * signal["drift_untrained"]


def _drifts_little(signal: Mapping[str, float], *, reference: str, limit: float) -> bool:
    return _has_learned(signal) and signal.get(f"drift_{reference}", math.inf) < limit


def _fits_as_before(signal: Mapping[str, float], *, share: float) -> bool:
    """Returns whether half the age explains a share of what the features of today do and untrained ones do not."""
    if "fit_half" not in signal or not _has_learned(signal) or signal["fit"] <= signal["fit_untrained"]:
        return False
    return signal["fit_half"] - signal["fit_untrained"] > share * (signal["fit"] - signal["fit_untrained"])


def _shadow_keeps_up(signal: Mapping[str, float]) -> bool:
    """Returns whether heads learned as well on a frozen encoder, as far as `studies.shadow_heads` tried it then."""
    return "shadow_loss" in signal and signal["shadow_loss"] <= signal["live_loss"] + signal["standard_error"]


def _rule(name: str, holds: Test, needs: str | None = None, **options: float) -> Rule:
    return Rule(name, functools.partial(_first, holds, **options), needs)


def _settled(share: float) -> Test:
    return functools.partial(_has_settled, share=share)


# `settled S`: drift since half the age below S times the drift since untrained.
RULES = (
    *(Rule(f"{share:g} of the run", functools.partial(_at_share, share=share)) for share in (0.05, 0.1, 0.2)),
    *(_rule(f"settled {share:g}", _settled(share), "drift_half") for share in (0.05, 0.1, 0.2, 0.4)),
    *(
        _rule(f"settled {share:g}, or {latest:g} of the run", _settled(share), "drift_half", latest=latest)
        for latest in (0.1, 0.25)
        for share in (0.1, 0.2, 0.4)
    ),
    *(
        _rule(
            f"drift since half the age below {limit:g}",
            functools.partial(_drifts_little, reference="half", limit=limit),
            "drift_half",
        )
        for limit in (0.01, 0.03)
    ),
    *(
        _rule(
            f"drift since the previous signal below {limit:g}, 3 times",
            functools.partial(_drifts_little, reference="previous", limit=limit),
            "drift_previous",
            times=3,
        )
        for limit in (1e-3, 3e-4)
    ),
    *(
        _rule(
            f"half the age explains {share:g} of the values beyond chance, 3 times",
            functools.partial(_fits_as_before, share=share),
            "fit_half",
            times=3,
        )
        for share in (0.8, 0.9)
    ),
    _rule("shadow heads lose nothing", _shadow_keeps_up, "shadow_loss"),  # of results of `studies.shadow_heads`
)
