"""Ablation of the frozen layers: the first convolution alone, whose latents are larger, and both convolutions."""

from experiments.paper import ablation
from experiments.runner.spec import SCALES, Experiment, Run

_STAGES: ablation.Values = dict.fromkeys(SCALES, ("conv1", "conv2"))
# A latent of the first convolution takes 33 kB; no run at the scale cpu fills this capacity.
_CAPACITY = {"smoke": {}, "cpu": {"replay__capacity": 150_000}, "paper": {}}


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale."""
    changes = {"replay__allow_more_memory": True} | _CAPACITY[scale]
    arm = "frozen through {}"
    return ablation.of_rainbow(scale, "seer.freeze_through", _STAGES, arm, starts_alike=False, **changes)


EXPERIMENT = Experiment(
    "Which layers to freeze",
    runs,
    note=(
        "Rainbow, trained from scratch. The paper compares layers of CURL after a transfer; the outputs of CURL's"
        " convolutions are too large to store for four crops (157 kB each)."
    ),
)
