"""Runs of CURL-SAC on DeepMind Control at each scale, which the figures share."""

from typing import Any

from experiments.runner.spec import Fork, Run

CURL, SEER = "CURL", "CURL + SEER"
TASKS = {
    "smoke": ("cartpole-swingup",),
    "cpu": ("cartpole-balance",),
    "paper": ("cartpole-swingup", "finger-spin", "reacher-easy", "walker-walk"),
}
SEEDS = {"smoke": (0,), "cpu": (0, 1), "paper": (0, 1, 2, 3, 4)}
# Seeds of figures 6 and 7 and of the ablations.
FEW_SEEDS = {"smoke": (0,), "cpu": (0,), "paper": (0, 1, 2)}
# Overrides of runs with SEER: longer at the scale cpu, where steps after the freeze cost little.
LONGER: dict[str, dict[str, Any]] = {"smoke": {}, "cpu": {"total_steps": 30_000}, "paper": {}}
# Checkpoints of trunks, and therefore of all runs, are kept at the freezes of all runs that fork them.
_SCALES: dict[str, dict[str, Any]] = {
    # A small encoder compiles fast. A full ring before the freeze gives most runs the same programs.
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
        "agent.updates_per_actor_update": 1,
        "agent.updates_per_target_update": 1,
        "replay.capacity": 60,
        "checkpoint_at": (60,),
        "seer.freeze_step": 60,
    },
    # Smaller images without shadows, batches, hidden layers and runs, which 2 cores train in hours.
    "cpu": {
        "total_steps": 12_000,
        "log_every": 500,
        "eval_every": 2000,
        "checkpoint_every": 6000,
        "checkpoint_at": (6000, 10_000),
        "params_every": 2000,
        "env.image_size": 44,
        "env.crop_size": 40,
        "env.render_quality": "fast",
        "agent.batch_size": 64,
        "agent.hidden": 256,
        "replay.capacity": 30_000,
        "seer.freeze_step": 10_000,
    },
    "paper": {"checkpoint_at": (5000, 10_000, 20_000, 40_000), "params_every": 10_000, "seer.freeze_step": 10_000},
}


def make_run(
    scale: str,
    task: str,
    seed: int,
    *,
    name: str,
    arm: str,
    preset: str,
    source: str | None = None,
    trunk: Run | None = None,
    **changes: Any,
) -> Run:
    """Returns a run on one task.

    Args:
      scale: smoke, cpu or paper.
      task: of DeepMind Control.
      seed: random seed.
      name: of the arm, as part of the run's name.
      arm: label of the arm.
      preset: of `configs/curl_dmc.py`.
      source: name of the run whose encoder this one starts from.
      trunk: run that this one forks at its freeze; None for one that begins with its first step.
      changes: overrides in addition to those of the scale, with __ for dots.
    """
    changes = {field.replace("__", "."): value for field, value in changes.items()}
    # Presets of tasks hold the paper's values; the other scales set these fields themselves.
    config = f"configs/curl_dmc.py:{preset},{task}" if scale == "paper" else f"configs/curl_dmc.py:{preset}"
    # Their reports show no signals, unless an experiment sets a cadence.
    overrides = {"env.task": task, "seed": seed, "seer.signal_every": 0} | _SCALES[scale] | changes
    fork = Fork(trunk.name, overrides["seer.freeze_step"]) if trunk else None
    return Run(f"{task}-{name}-s{seed}", arm, config, overrides, source, fork)


def baseline(scale: str, task: str, seed: int) -> Run:
    """Returns a run of CURL without SEER."""
    return make_run(scale, task, seed, name="curl", arm=CURL, preset="baseline")


def seer(scale: str, task: str, seed: int) -> Run:
    """Returns a run of CURL with SEER; it forks `baseline` at its freeze."""
    trunk = baseline(scale, task, seed)
    return make_run(scale, task, seed, name="curl-seer", arm=SEER, preset="paper", trunk=trunk, **LONGER[scale])
