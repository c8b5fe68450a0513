"""Ablation of the freeze time: the same run, frozen earlier or later."""

from experiments.paper import ablation
from experiments.runner.spec import Experiment, Run

_RAINBOW = {"smoke": (90, 120), "cpu": (5000, 10_000, 20_000, 40_000), "paper": (10_000, 25_000, 50_000, 100_000)}
_CURL = {"smoke": (60,), "cpu": (6000, 10_000), "paper": (5000, 10_000, 20_000, 40_000)}


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale."""
    return [
        *ablation.of_rainbow(scale, "seer.freeze_step", _RAINBOW, "frozen at {:,}"),
        *ablation.of_curl(scale, "seer.freeze_step", _CURL, "frozen at {:,}"),
    ]


EXPERIMENT = Experiment("When to freeze", runs)
