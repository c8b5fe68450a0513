"""Figure 8: attention maps of encoders at several times of training, and how fast their layers converge."""

import pathlib
from collections.abc import Sequence

from experiments.paper import curl, rainbow
from experiments.report.content import Section
from experiments.runner.spec import Experiment, Run
from experiments.studies import encoder_analysis

_GAMES = {"smoke": ("krull",), "cpu": ("krull",), "paper": ("krull", "seaquest")}
_CONTROL = {"smoke": ("cartpole-swingup",), "cpu": ("cartpole-balance",), "paper": ("walker-walk",)}
_OBSERVATIONS = {"smoke": 64, "cpu": 2000, "paper": 5000}


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale."""
    return [
        *(rainbow.baseline(scale, task, 0) for task in _GAMES[scale]),
        *(curl.baseline(scale, task, 0) for task in _CONTROL[scale]),
    ]


def sections(scale: str, directories: Sequence[pathlib.Path]) -> list[Section]:
    """Returns attention maps and similarities of layers of each run."""
    return [
        section
        for directory in directories
        for section in encoder_analysis.make_sections(directory, num_observations=_OBSERVATIONS[scale])
    ]


EXPERIMENT = Experiment("Encoder layers converge from the bottom up", runs, x="env_steps", sections=sections)
