"""CURL-SAC with and without SEER on cartpole-balance, and with an encoder from another task, at reduced scale.

python -m experiments.cartpole_balance run    # trains what results/ lacks, one run after the other: two hours
python -m experiments.cartpole_balance speed  # both phases' speed; wants a machine with nothing else to do
python -m experiments.cartpole_balance table  # prints the tables of the README from results/
python -m experiments.cartpole_balance fixed  # what random actions and no action return

Reduced against the paper: 44 pixels cropped to 40 instead of 100 to 84, rendered without shadows and multisampling;
batches, and so negatives, of 64 instead of 128; hidden layers of 256 instead of 1024; runs of 12,000 agent steps
(30,000 with SEER) instead of 80,000. The freeze comes after 10,000, as in the paper, and once after 6000; the task is
not one of the paper's.
"""

import pathlib
import sys
import tempfile

import numpy as np
from ml_collections import ConfigDict

from configs import curl_dmc
from experiments import runs
from seer_jax import config as config_lib
from seer_jax import handover, train
from seer_jax.envs import registry

RESULTS = pathlib.Path(__file__).parent / "results" / "cartpole_balance"
SEEDS = (0, 1)
STEPS, FREEZE_STEP, EARLY_FREEZE_STEP, SEER_STEPS = 12_000, 10_000, 6_000, 30_000


def make_config(seed: int, **changes) -> ConfigDict:
    """Returns the configuration of one run; `changes` are overrides by dotted name, dots as __."""
    config = curl_dmc.get_config()
    reduced = {
        "seed": seed,
        "log_every": 500,
        "eval_every": 2000,
        "checkpoint_every": 6000,
        "env.task": "cartpole-balance",
        "env.image_size": 44,
        "env.crop_size": 40,
        "env.render_quality": "fast",
        "agent.batch_size": 64,
        "agent.hidden": 256,
        "replay.capacity": 30_000,
        "seer.freeze_step": FREEZE_STEP,
    }
    config.update_from_flattened_dict(reduced | {name.replace("__", "."): value for name, value in changes.items()})
    return config


def configs() -> dict[str, ConfigDict]:
    arms = {}
    for seed in SEEDS:
        arms[f"curl-s{seed}"] = make_config(seed, total_steps=STEPS, seer__enabled=False)
        arms[f"seer-s{seed}"] = make_config(seed, total_steps=SEER_STEPS)
    arms["seer-bfloat16-s0"] = make_config(0, total_steps=SEER_STEPS, replay__latent_dtype="bfloat16")
    arms["seer-early-s0"] = make_config(0, total_steps=SEER_STEPS, seer__freeze_step=EARLY_FREEZE_STEP)
    return arms


def run() -> None:
    runs.run_missing(RESULTS, configs())
    if (RESULTS / "transfer-s0.jsonl").exists():
        return
    with tempfile.TemporaryDirectory() as directory:
        source, target = pathlib.Path(directory) / "source", pathlib.Path(directory) / "target"
        train.run(make_config(0, env__task="cartpole-swingup", total_steps=6000, seer__enabled=False), source)
        train.run(make_config(0, total_steps=SEER_STEPS, seer__freeze_step=0, seer__init_from=str(source)), target)
        runs.keep(source, RESULTS, "source-s0")
        runs.keep(target, RESULTS, "transfer-s0")


def speed() -> None:
    (RESULTS / "speed.jsonl").unlink(missing_ok=True)
    runs.run_missing(RESULTS, {"speed": make_config(0, total_steps=3000, seer__freeze_step=2000)})


def play_fixed(episodes: int = 10) -> dict[str, float]:
    """Returns mean returns of policies that look at nothing."""
    config = config_lib.resolve(make_config(0)).unlock()
    config.eval_episodes = episodes
    rng, shape = np.random.default_rng(0), (episodes, 1)
    means = {}
    for name, act in (
        ("random actions", lambda: rng.uniform(-1.0, 1.0, shape)),
        ("no action", lambda: np.zeros(shape)),
    ):
        env, total = registry.make_env(config, training=False), np.zeros(episodes)
        step = env.reset()
        while not step.last.all():
            step = env.step(act())
            total += step.score
        env.close()
        means[name] = float(total.mean())
    return means


def table() -> None:
    rows = {f"CURL, seed {seed}": f"curl-s{seed}" for seed in SEEDS}
    rows |= {f"CURL + SEER, seed {seed}": f"seer-s{seed}" for seed in SEEDS}
    rows["the same, latents in bfloat16, seed 0"] = "seer-bfloat16-s0"
    rows[f"the same, frozen at {EARLY_FREEZE_STEP:,}, seed 0"] = "seer-early-s0"
    rows["encoder of cartpole-swingup, frozen from the start, seed 0"] = "transfer-s0"
    columns = (2000, 4000, 8000, 10_000, 12_000, 20_000, 30_000)
    runs.print_evaluations(RESULTS, rows, columns=columns, fixed=play_fixed())
    end, alone = (runs.records(RESULTS, name, "end")[0] for name in ("seer-s0", "speed"))
    runs.print_phases("cartpole-balance, reduced", end, alone)
    runs.print_bytes(*handover.bytes_per_row(config_lib.resolve(make_config(0))))


COMMANDS = {"run": run, "speed": speed, "table": table, "fixed": lambda: print(play_fixed())}


if __name__ == "__main__":
    sys.exit(runs.main(__doc__, COMMANDS, sys.argv))
