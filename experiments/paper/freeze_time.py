"""Ablation of the freeze time: the same run, frozen earlier and later."""

from experiments.paper import rainbow
from experiments.spec import Experiment, Run

_TIMES = {"smoke": (90, 150), "cpu": (5000, 10_000, 20_000, 40_000), "paper": (10_000, 25_000, 50_000, 100_000)}


def runs(scale: str) -> list[Run]:
    return [
        rainbow.make_run(
            scale,
            task,
            seed,
            name=f"freeze{time}",
            arm=f"frozen at {time:,}",
            preset="paper",
            to_budget=True,
            seer__freeze_step=time,
        )
        for task in rainbow.FEW_TASKS[scale]
        for seed in rainbow.SEEDS[scale]
        for time in _TIMES[scale]
    ]


EXPERIMENT = Experiment("When to freeze", runs, budget=rainbow.BUDGETS)
