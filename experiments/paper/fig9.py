"""Figure 9: pictures of half the resolution against SEER, for CURL and for Rainbow, over FLOPs."""

from experiments.paper import curl, rainbow
from experiments.spec import Experiment, Run

# Half of what each scale's pictures are; the smoke runs' are as small as an encoder reads.
_RAINBOW_PIXELS = {"smoke": 30, "cpu": 42, "paper": 42}
_CURL_TASKS = curl.TASKS | {"paper": ("cartpole-swingup", "walker-walk")}
_CURL_PIXELS = {"smoke": (32, 28), "cpu": (28, 24), "paper": (50, 42)}


def runs(scale: str) -> list[Run]:
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


EXPERIMENT = Experiment("Half the resolution, or SEER", runs)
