"""Figure 6: CURL with the IMPALA encoder of 15 convolutions, with and without SEER, over FLOPs."""

import functools

from experiments.paper import curl
from experiments.runner.spec import Experiment, Run

_TASKS = curl.TASKS | {"paper": ("cartpole-swingup", "walker-walk")}


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale; those with SEER fork those without it."""
    return [run for task in _TASKS[scale] for seed in curl.FEW_SEEDS[scale] for run in _arms(scale, task, seed)]


def _arms(scale: str, task: str, seed: int) -> list[Run]:
    make = functools.partial(curl.make_run, scale, task, seed, preset="paper", encoder__name="impala")
    trunk = make(name="impala", arm="CURL, IMPALA", seer__enabled=False)
    return [trunk, make(name="impala-seer", arm="CURL + SEER, IMPALA", trunk=trunk, **curl.LONGER[scale])]


EXPERIMENT = Experiment("CURL with the IMPALA encoder, with and without SEER, over FLOPs", runs)
