"""Figure 7: an encoder from walker-stand, frozen from the first step on, against training from scratch, over FLOPs."""

from experiments.paper import curl
from experiments.spec import Experiment, Run

_SOURCE_STEPS = {"smoke": {}, "cpu": {"total_steps": 6000}, "paper": {"total_steps": 60_000}}
_TASKS = {
    "smoke": ("walker-walk",),
    "cpu": ("walker-walk", "hopper-hop"),
    "paper": ("walker-walk", "hopper-hop"),
}


def runs(scale: str) -> list[Run]:
    found = []
    for seed in curl.FEW_SEEDS[scale]:
        source = curl.make_run(
            scale, "walker-stand", seed, name="source", arm="CURL", preset="baseline", **_SOURCE_STEPS[scale]
        )
        found.append(source)
        for task in _TASKS[scale]:
            transfer = {"name": "transfer", "arm": "CURL + SEER from walker-stand", "seer__freeze_step": 0}
            found.append(curl.baseline(scale, task, seed))
            found.append(curl.make_run(scale, task, seed, preset="paper", source=source.name, **transfer))
    return found


EXPERIMENT = Experiment("An encoder from another task", runs)
