"""Ablation of the boundary: the first convolution frozen alone, whose latents are larger, and both."""

from experiments.paper import ablation
from experiments.spec import SCALES, Experiment, Run

_STAGES = dict.fromkeys(SCALES, ("conv1", "conv2"))


def runs(scale: str) -> list[Run]:
    return ablation.of_rainbow(
        scale, "seer.freeze_through", _STAGES, "frozen through {}", replay__allow_more_memory=True
    )


EXPERIMENT = Experiment("How much to freeze", runs)
