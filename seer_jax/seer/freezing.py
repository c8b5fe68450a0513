"""When to freeze: the rule that decides from the signals of a run."""

import math
from collections.abc import Mapping, Sequence

from seer_jax.config import RunConfig

Signal = Mapping[str, float]  # agent steps and fields of a signal

# The representation has settled if it changed in the second half of its life by less than this share of all that it
# has changed since it was untrained.
SETTLED_SHARE = 0.1
_UNTRAINED_DRIFT = 1e-3  # below this an encoder is an untrained one, whose drift consists of rounding


def earliest(config: RunConfig) -> int:
    """Returns the agent steps of the first signal after which an automatic freeze can come: twice the first one's."""
    every = config.seer.signal_every
    first_after, last = config.freeze_bounds
    first = (config.learn_start // every + 1) * every
    return min(max(2 * first, math.ceil(first_after / every) * every), last)


def is_settled(config: RunConfig, signals: Sequence[Signal]) -> bool:
    """Returns whether an automatic freeze is due by the signals of a run so far.

    Args:
      config: configuration of the run; one without an automatic freeze never settles.
      signals: in order; the newest decides.
    """
    if not config.seer.is_automatic or not signals:
        return False
    newest, (earliest, _) = signals[-1], config.freeze_bounds
    return newest["env_steps"] >= earliest and has_settled(newest)


def has_settled(signal: Signal, share: float = SETTLED_SHARE) -> bool:
    """Returns whether the drift since half the age is less than a share of that since the encoder was untrained."""
    return has_learned(signal) and signal.get("drift_half", math.inf) < share * signal["drift_untrained"]


def has_learned(signal: Signal) -> bool:
    """Returns whether the encoder differs from an untrained one by more than rounding."""
    return signal["drift_untrained"] >= _UNTRAINED_DRIFT
