"""Ablation of the precision in which latents are stored."""

from experiments.paper import rainbow
from experiments.spec import Experiment, Run
from seer_jax.config import LATENT_DTYPES


def runs(scale: str) -> list[Run]:
    return rainbow.ablation(
        scale,
        [
            {"name": f"latents-{dtype}", "arm": f"latents in {dtype}", "replay__latent_dtype": dtype}
            for dtype in LATENT_DTYPES
        ],
    )


EXPERIMENT = Experiment("In which precision to store latents", runs, x="env_steps")
