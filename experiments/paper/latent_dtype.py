"""Ablation of the data type in which latents are stored."""

from experiments.paper import ablation
from experiments.runner.spec import Experiment, Run
from seer_jax.config import LATENT_DTYPES

_RAINBOW = {"smoke": ("float32", "bfloat16"), "cpu": LATENT_DTYPES, "paper": LATENT_DTYPES}
_CURL = {"smoke": ("float32",), "cpu": ("float32", "bfloat16"), "paper": LATENT_DTYPES}


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale."""
    return [
        *ablation.of_rainbow(scale, "replay.latent_dtype", _RAINBOW, "latents in {}"),
        *ablation.of_curl(scale, "replay.latent_dtype", _CURL, "latents in {}"),
    ]


EXPERIMENT = Experiment("Data type of stored latents", runs, x="env_steps")
