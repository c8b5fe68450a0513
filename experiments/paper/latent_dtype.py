"""Ablation of the precision in which latents are stored."""

from experiments.paper import rainbow
from experiments.spec import Experiment, Run


def runs(scale: str) -> list[Run]:
    return [
        rainbow.make_run(
            scale,
            task,
            seed,
            name=f"latents-{dtype}",
            arm=f"latents in {dtype}",
            preset="paper",
            to_budget=True,
            replay__latent_dtype=dtype,
        )
        for task in rainbow.FEW_TASKS[scale]
        for seed in rainbow.SEEDS[scale]
        for dtype in ("float32", "bfloat16", "float16")
    ]


EXPERIMENT = Experiment("In which precision to store latents", runs, x="env_steps")
