"""Table 1: scores at equal FLOPs (the runs of figure 3) and, with 0.07 GB of replay, at equal steps (figure 4)."""

from experiments.paper import fig3, fig4
from experiments.spec import Experiment, Run


def runs(scale: str) -> list[Run]:
    return [*fig3.runs(scale), *(run for run in fig4.runs(scale) if run.arm != "Rainbow, all memory")]


EXPERIMENT = Experiment("Scores of Rainbow at equal FLOPs, and at equal steps with little memory", runs)
