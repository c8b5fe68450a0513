"""Ablation of the boundary: the first convolution frozen alone, whose latents are larger, and both."""

from experiments.paper import rainbow
from experiments.spec import Experiment, Run


def runs(scale: str) -> list[Run]:
    variants = [
        {"name": f"through-{stage}", "arm": f"frozen through {stage}", "seer__freeze_through": stage}
        for stage in ("conv1", "conv2")
    ]
    return rainbow.ablation(scale, [variant | {"replay__allow_more_memory": True} for variant in variants])


EXPERIMENT = Experiment("How much to freeze", runs, budget=rainbow.BUDGETS)
