"""Figure 3: scores of Rainbow over FLOPs, with and without SEER, memory not limited."""

from experiments.paper import rainbow
from experiments.spec import Experiment, Run

_ARMS = (("rainbow", rainbow.RAINBOW, "baseline"), ("seer", rainbow.SEER, "paper"))


def runs(scale: str) -> list[Run]:
    # A smoke run ends after steps, so small that FLOPs mean nothing.
    macs = None if scale == "smoke" else rainbow.BUDGETS[scale]
    return [
        rainbow.make_run(scale, task, seed, arm, preset, name=name, macs=macs)
        for task in rainbow.TASKS[scale]
        for seed in rainbow.SEEDS[scale]
        for name, arm, preset in _ARMS
    ]


EXPERIMENT = Experiment("Rainbow with and without SEER over FLOPs", runs, budget=rainbow.BUDGETS)
