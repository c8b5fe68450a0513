"""Ablation of the boundary: the first convolution frozen alone, whose latents are larger, and both."""

from experiments.paper import ablation
from experiments.spec import SCALES, Experiment, Run

_STAGES = dict.fromkeys(SCALES, ("conv1", "conv2"))
# A row of the first convolution's latents takes 33 kB; at the scale of a CPU no run has as many rows as this.
_CAPACITY = {"smoke": {}, "cpu": {"replay__capacity": 150_000}, "paper": {}}


def runs(scale: str) -> list[Run]:
    changes = {"replay__allow_more_memory": True} | _CAPACITY[scale]
    return ablation.of_rainbow(scale, "seer.freeze_through", _STAGES, "frozen through {}", **changes)


EXPERIMENT = Experiment(
    "How much to freeze",
    runs,
    note=(
        "Rainbow, trained from scratch; the paper compares layers of CURL after a transfer, whose convolutions' outputs"
        " are too large to store in four crops (157 kB each)."
    ),
)
