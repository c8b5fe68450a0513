"""Table 1: scores at equal FLOPs (the runs of figure 3) and, with 0.07 GB of replay, at equal steps (figure 4)."""

from experiments.paper import fig3, fig4, rainbow
from experiments.report.content import Comparison
from experiments.runner.spec import Experiment, Run


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale."""
    return [*fig3.runs(scale), *(run for run in fig4.runs(scale) if run.arm != fig4.UNBOUNDED)]


def comparisons(scale: str) -> list[Comparison]:
    """Returns the left and the right half of the paper's table."""
    equal_flops = rainbow.at_budget(scale, (rainbow.RAINBOW, rainbow.SEER))
    return [*equal_flops, Comparison("Scores at equal steps with little memory", (fig4.SMALL, fig4.SMALL_SEER))]


EXPERIMENT = Experiment("Scores of Rainbow at equal FLOPs, and with little memory", runs, comparisons=comparisons)
