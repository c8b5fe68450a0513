"""Figure 8: where encoders look at several times of training, and how similar each layer is to itself later on."""

import pathlib
from collections.abc import Sequence

from experiments import encoder_analysis
from experiments.paper import curl, rainbow
from experiments.spec import Experiment, Run, Section

_GAMES = {"smoke": ("krull",), "cpu": ("krull",), "paper": ("krull", "seaquest")}
_CONTROL = {"smoke": ("cartpole-swingup",), "cpu": ("cartpole-balance",), "paper": ("walker-walk",)}
_OBSERVATIONS = {"smoke": 64, "cpu": 2000, "paper": 5000}


def runs(scale: str) -> list[Run]:
    return [
        *(rainbow.baseline(scale, task, 0) for task in _GAMES[scale]),
        *(curl.baseline(scale, task, 0) for task in _CONTROL[scale]),
    ]


def sections(scale: str, directories: Sequence[pathlib.Path]) -> list[Section]:
    return [
        section
        for directory in directories
        for section in encoder_analysis.analyse(directory, observations=_OBSERVATIONS[scale])
    ]


EXPERIMENT = Experiment("Encoders settle from the bottom up", runs, x="env_steps", sections=sections)
