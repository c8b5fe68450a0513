"""Runs of CURL-SAC on DeepMind Control at each scale: the settings that the figures share."""

from typing import Any

from experiments.spec import Run

CURL, SEER = "CURL", "CURL + SEER"
TASKS = {
    "smoke": ("cartpole-swingup",),
    "cpu": ("cartpole-balance",),
    "paper": ("cartpole-swingup", "finger-spin", "reacher-easy", "walker-walk"),
}
SEEDS = {"smoke": (0,), "cpu": (0, 1), "paper": (0, 1, 2, 3, 4)}
# Of figures 6 and 7, and of the ablations.
FEW_SEEDS = {"smoke": (0,), "cpu": (0,), "paper": (0, 1, 2)}
# What runs with SEER have beside: steps after the freeze cost next to nothing where that is what is scarce.
LONGER: dict[str, dict[str, Any]] = {"smoke": {}, "cpu": {"total_steps": 30_000}, "paper": {}}
_SCALES: dict[str, dict[str, Any]] = {
    # Cheap to compile, and full replay before the freeze: programs are the same for most runs.
    "smoke": {
        "total_steps": 120,
        "learn_start": 40,
        "log_every": 20,
        "eval_every": 60,
        "eval_episodes": 1,
        "checkpoint_every": 0,
        "params_every": 60,
        "env.action_repeat": 50,
        "env.image_size": 34,
        "env.crop_size": 30,
        "env.render_quality": "fast",
        "encoder.name": "data_efficient",
        "agent.hidden": 8,
        "agent.batch_size": 4,
        "agent.random_steps": 20,
        "agent.actor_update_every": 1,
        "agent.target_update_every": 1,
        "replay.capacity": 60,
        "seer.freeze_step": 60,
    },
    # Smaller pictures without shadows, batches, hidden layers and runs: what 2 cores train in hours.
    "cpu": {
        "total_steps": 12_000,
        "log_every": 500,
        "eval_every": 2000,
        "checkpoint_every": 6000,
        "params_every": 2000,
        "env.image_size": 44,
        "env.crop_size": 40,
        "env.render_quality": "fast",
        "agent.batch_size": 64,
        "agent.hidden": 256,
        "replay.capacity": 30_000,
        "seer.freeze_step": 10_000,
    },
    "paper": {"params_every": 10_000},
}


def make_run(
    scale: str, task: str, seed: int, *, name: str, arm: str, preset: str, source: str | None = None, **changes: Any
) -> Run:
    """Returns a run on one task.

    Args:
      scale: smoke, cpu or paper.
      task: of the suite.
      seed: of everything.
      name: what the run's name calls the arm.
      arm: label of what is compared.
      preset: of `configs/curl_dmc.py`.
      source: name of the run whose encoder it starts from.
      changes: overrides beside the scale's, dots as __.
    """
    changes = {field.replace("__", "."): value for field, value in changes.items()}
    known = scale == "paper"  # tasks with presets of their own; elsewhere the scale says all that these do
    config = f"configs/curl_dmc.py:{preset},{task}" if known else f"configs/curl_dmc.py:{preset}"
    return Run(
        f"{task}-{name}-s{seed}", arm, config, {"env.task": task, "seed": seed} | _SCALES[scale] | changes, source
    )


def baseline(scale: str, task: str, seed: int) -> Run:
    """CURL as it is."""
    return make_run(scale, task, seed, name="curl", arm=CURL, preset="baseline")


def seer(scale: str, task: str, seed: int) -> Run:
    """CURL with SEER."""
    return make_run(scale, task, seed, name="curl-seer", arm=SEER, preset="paper", **LONGER[scale])
