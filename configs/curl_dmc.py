"""CURL-SAC with SEER on DeepMind Control, from pixels.

    python -m seer_jax.train --config=configs/curl_dmc.py
    python -m seer_jax.train --config=configs/curl_dmc.py:constrained,walker-walk

Presets, after the colon, with the task behind a comma if it is not cartpole-swingup:
  paper            the compute-efficiency setting: a row of replay for each agent step.
  baseline         the same without SEER.
  constrained      replay of 1000 or 2000 frames (0.03 or 0.06 GB) that grows 18.75 times at the freeze.
  half_resolution  50 pixels cropped to 42 instead of 100 to 84, without SEER.
  impala           the encoder of 15 convolutions.
  constrained_impoola  constrained, with that encoder and a mean over the image at its end.
  quick            short and small; uses every part, but does not reproduce the paper's result. At the freeze the
                   replay shrinks from 27 MB of frames to 6 MB of latents, stored in float16.

Steps are agent steps; one is `env.action_repeat` control steps (cartpole 8, finger and walker 2, others 4). The
hyperparameters of the published setting are the defaults of `RunConfig`, `DmcConfig` and `CurlConfig`;
`docs/configuration.md` lists them. The paper publishes the freeze time of cartpole only, 10,000, which `paper` and
`constrained` have. The freeze of the other tasks and presets is automatic: a share of `total_steps`.

Expected: `quick` takes about 4 minutes on 2 cores.
"""

from typing import Any

from ml_collections import ConfigDict

from seer_jax.config import AUTO
from seer_jax.run.resolve import default_config

# Agent steps, and frames of the constrained replay. Runs end after 500,000 control steps, cartpole's as published.
TASKS = {
    "cartpole-swingup": (80_000, 1000),
    "finger-spin": (250_000, 1000),
    "reacher-easy": (125_000, 2000),
    "walker-walk": (250_000, 2000),
    "hopper-hop": (125_000, 2000),
    "walker-stand": (250_000, 2000),
    "cheetah-run": (125_000, 2000),
    "ball_in_cup-catch": (125_000, 2000),
}
_PUBLISHED_FREEZE = {"cartpole-swingup": 10_000}  # agent steps


def get_config(preset_and_task: str = "paper,cartpole-swingup") -> ConfigDict:
    preset, _, task = preset_and_task.partition(",")
    task = task or "cartpole-swingup"
    if task not in TASKS:
        raise ValueError(f"task {task!r} has no preset; set --config.env.task, or choose from {', '.join(TASKS)}")
    total_steps, _ = TASKS[task]
    config = default_config(suite="dmc", agent="curl_sac")
    config.update(
        {
            "total_steps": total_steps,
            "learn_start": 1000,
            "checkpoint_every": 10_000,
            "env": {"task": task},
            "encoder": {"name": "sac_ae"},
            "replay": {"capacity": total_steps},
            "seer": {"num_copies": 4, "sync_target_heads": True},
        }
    )
    known = presets(task)
    if preset not in known:
        raise ValueError(f"preset {preset!r} is unknown; choose one of {', '.join(known)}")
    config.update(known[preset])
    return config.lock()


def presets(task: str) -> dict[str, dict[str, Any]]:
    """Returns what each preset changes, for a task of `TASKS`."""
    _, constrained_capacity = TASKS[task]
    freeze_step = _PUBLISHED_FREEZE.get(task, AUTO)
    small_images = {"image_size": 50, "crop_size": 42}
    return {
        "paper": {"seer": {"freeze_step": freeze_step}},
        "baseline": {"seer": {"enabled": False}},
        "constrained": {
            "replay": {"capacity": constrained_capacity, "grow_after_freeze": True},
            "seer": {"freeze_step": freeze_step},
        },
        "half_resolution": {"env": small_images, "seer": {"enabled": False}},
        "impala": {"encoder": {"name": "impala"}},
        "constrained_impoola": {
            "encoder": {"name": "impoola"},
            "replay": {"capacity": constrained_capacity, "grow_after_freeze": True},
        },
        "quick": {
            "total_steps": 6000,
            "learn_start": 500,
            "eval_every": 3000,
            "eval_episodes": 4,
            "checkpoint_every": 3000,
            "log_every": 500,
            "env": small_images | {"render_quality": "fast"},
            "agent": {"batch_size": 64, "learning_rate": 5e-4, "hidden": 256, "random_steps": 500},
            "replay": {"capacity": 6000, "latent_dtype": "float16"},
            "seer": {"freeze_after": 1800},  # a share of so short a run would be too few updates
        },
    }
