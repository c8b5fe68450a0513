"""Ablation of the freeze time: the same run, frozen earlier and later."""

from experiments.paper import rainbow
from experiments.spec import Experiment, Run

_TIMES = {"smoke": (90, 150), "cpu": (5000, 10_000, 20_000, 40_000), "paper": (10_000, 25_000, 50_000, 100_000)}


def runs(scale: str) -> list[Run]:
    return rainbow.ablation(
        scale,
        [{"name": f"freeze{time}", "arm": f"frozen at {time:,}", "seer__freeze_step": time} for time in _TIMES[scale]],
    )


EXPERIMENT = Experiment("When to freeze", runs, budget=rainbow.BUDGETS)
