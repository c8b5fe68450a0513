"""Rules that say when to freeze, as functions of the signals of a run: those that were tried, with the one in use.

No rule has a parameter that depends on a task. `experiments.paper.freeze_time` judges them by what they cost.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from seer_jax.seer import freezing

Signals = Sequence[Mapping[str, float]]  # in order; agent steps and fields of each


class Rule(NamedTuple):
    """A rule.

    Attributes:
      name: short.
      meaning: when it freezes.
      decide: `(signals, total_steps) -> agent steps` at which it freezes; None if it never does. The total is that of a
        run without a freeze.
    """

    name: str
    meaning: str
    decide: Callable[[Signals, int], int | None]


def _first(
    holds: Callable[[Mapping[str, float]], bool], signals: Signals, total_steps: int, *, patience: int = 1
) -> int | None:
    """Returns the agent steps of the first signal that ends a series of `patience` signals of which a test holds."""
    del total_steps
    series = 0
    for signal in signals:
        series = series + 1 if holds(signal) else 0
        if series == patience:
            return int(signal["env_steps"])
    return None


def _fraction(share: float, signals: Signals, total_steps: int) -> int | None:
    """Returns the agent steps of the first signal after a share of the run."""
    return _first(lambda signal: signal["env_steps"] >= share * total_steps, signals, total_steps)


def _drifts_little(signal: Mapping[str, float], *, reference: str, limit: float) -> bool:
    name = f"drift_{reference}"
    return name in signal and signal["drift_untrained"] > 0 and signal[name] < limit


def _drifts_little_of_all(signal: Mapping[str, float], *, share: float) -> bool:
    return "drift_half" in signal and 0 < signal["drift_half"] < share * signal["drift_untrained"]


def _fits_as_before(signal: Mapping[str, float], *, share: float) -> bool:
    """Returns whether half the age explains a share of what the features of today do and untrained ones do not."""
    if "fit_half" not in signal or signal["fit"] <= signal["fit_untrained"]:
        return False
    return signal["fit_half"] - signal["fit_untrained"] > share * (signal["fit"] - signal["fit_untrained"])


RULES = (
    *(
        Rule(
            f"{share:.3g} of the run", "a fixed share of the run without a freeze", functools.partial(_fraction, share)
        )
        for share in (0.125, 0.25, 0.5)
    ),
    Rule(
        "settled",
        f"drift since half the age below {freezing.SETTLED_SHARE:g} of the drift since untrained; the rule of"
        " seer.freeze_step=auto",
        functools.partial(_first, freezing.has_settled),
    ),
    *(
        Rule(
            f"settled, {share:g}",
            f"the same with {share:g}",
            functools.partial(_first, functools.partial(_drifts_little_of_all, share=share)),
        )
        for share in (0.05, 0.2, 0.4)
    ),
    *(
        Rule(
            f"drift since half the age, {limit:g}",
            f"drift since half the age below {limit:g}",
            functools.partial(_first, functools.partial(_drifts_little, reference="half", limit=limit)),
        )
        for limit in (0.01, 0.03)
    ),
    *(
        Rule(
            f"drift between signals, {limit:g}",
            f"drift since the previous signal below {limit:g} three times in a row",
            functools.partial(_first, functools.partial(_drifts_little, reference="previous", limit=limit), patience=3),
        )
        for limit in (1e-3, 3e-4)
    ),
    *(
        Rule(
            f"fit against chance, {share:g}",
            f"features of half the age explain {share:g} of what those of today do beyond untrained ones, three times"
            " in a row",
            functools.partial(_first, functools.partial(_fits_as_before, share=share), patience=3),
        )
        for share in (0.8, 0.9)
    ),
)
