"""Figure 9: images of half the resolution against SEER, for CURL and for Rainbow, over FLOPs."""

from experiments.paper import curl, rainbow
from experiments.runner.spec import Experiment, Run

# Half the resolution of each scale; at the scale smoke the smallest that the encoders accept.
_RAINBOW_PIXELS = {"smoke": 30, "cpu": 42, "paper": 42}
_CURL_TASKS = curl.TASKS | {"paper": ("cartpole-swingup", "walker-walk")}
_CURL_PIXELS = {"smoke": (32, 28), "cpu": (28, 24), "paper": (50, 42)}


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale."""
    found, pixels = [], _RAINBOW_PIXELS[scale]
    for task in rainbow.FEW_TASKS[scale]:
        for seed in rainbow.SEEDS[scale]:
            half = rainbow.make_run(
                scale,
                task,
                seed,
                name="half",
                arm="Rainbow, half resolution",
                preset="baseline",
                to_budget=True,
                env__image_size=pixels,
                env__crop_size=pixels,
            )
            found += [rainbow.baseline(scale, task, seed), half, rainbow.seer(scale, task, seed)]
    image, crop = _CURL_PIXELS[scale]
    for task in _CURL_TASKS[scale]:
        for seed in curl.SEEDS[scale]:
            half = curl.make_run(
                scale,
                task,
                seed,
                name="half",
                arm="CURL, half resolution",
                preset="baseline",
                env__image_size=image,
                env__crop_size=crop,
            )
            found += [curl.baseline(scale, task, seed), half, curl.seer(scale, task, seed)]
    return found


EXPERIMENT = Experiment("Half the resolution against SEER, over FLOPs", runs)
