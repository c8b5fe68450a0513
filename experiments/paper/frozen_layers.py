"""Ablation of the boundary: the first convolution frozen alone, whose latents are larger, and both."""

from experiments.paper import rainbow
from experiments.spec import Experiment, Run


def runs(scale: str) -> list[Run]:
    return [
        rainbow.make_run(
            scale,
            task,
            seed,
            name=f"through-{stage}",
            arm=f"frozen through {stage}",
            preset="paper",
            to_budget=True,
            seer__freeze_through=stage,
            replay__allow_more_memory=True,
        )
        for task in rainbow.FEW_TASKS[scale]
        for seed in rainbow.SEEDS[scale]
        for stage in ("conv1", "conv2")
    ]


EXPERIMENT = Experiment("How much to freeze", runs, budget=rainbow.BUDGETS)
