"""Figure 2: returns of CURL over FLOPs, with and without SEER, memory not limited."""

from experiments.paper import curl
from experiments.runner.spec import Experiment, Run


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale."""
    return [
        make(scale, task, seed)
        for task in curl.TASKS[scale]
        for seed in curl.SEEDS[scale]
        for make in (curl.baseline, curl.seer)
    ]


EXPERIMENT = Experiment("CURL with and without SEER, over FLOPs", runs)
