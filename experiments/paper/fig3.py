"""Figure 3: scores of Rainbow over FLOPs, with and without SEER, memory not limited."""

from experiments.paper import rainbow
from experiments.runner.spec import Experiment, Run


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale."""
    return [
        make(scale, task, seed)
        for task in rainbow.TASKS[scale]
        for seed in rainbow.SEEDS[scale]
        for make in (rainbow.baseline, rainbow.seer)
    ]


EXPERIMENT = Experiment("Rainbow with and without SEER, over FLOPs", runs, comparisons=rainbow.at_budget)
