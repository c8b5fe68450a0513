"""Figure 7: an encoder from another task, frozen from the first step on, against training from scratch, over FLOPs."""

from experiments.paper import curl
from experiments.runner.spec import Experiment, Run

_SOURCE = {"smoke": "cartpole-swingup", "cpu": "cartpole-swingup", "paper": "walker-stand"}
# The paper's "60K environment interactions" are taken to be agent steps. At the scale smoke it is a run of figure 2.
_SOURCE_SETTINGS = {
    "smoke": {"name": "curl"},
    "cpu": {"name": "source", "total_steps": 6000},
    "paper": {"name": "source", "total_steps": 60_000, "replay__capacity": 60_000},
}
_TASKS = {"smoke": ("cartpole-balance",), "cpu": ("cartpole-balance",), "paper": ("walker-walk", "hopper-hop")}


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale."""
    found, task = [], _SOURCE[scale]
    for seed in curl.FEW_SEEDS[scale]:
        source = curl.make_run(scale, task, seed, arm="CURL, the source", preset="baseline", **_SOURCE_SETTINGS[scale])
        transfer = {"name": f"from-{task}", "arm": f"CURL + SEER from {task}", "seer__freeze_step": 0}
        found.append(source)
        for target in _TASKS[scale]:
            found.append(curl.baseline(scale, target, seed))
            found.append(
                curl.make_run(
                    scale, target, seed, preset="paper", source=source.name, **(transfer | curl.LONGER[scale])
                )
            )
    return found


EXPERIMENT = Experiment(
    "An encoder from another task",
    runs,
    note=(
        "Only the encoder is transferred and the heads are newly initialised; the paper fine-tunes policy and"
        " Q-functions. The cost of the source has its own row and is not included in that of the runs that use it."
    ),
)
