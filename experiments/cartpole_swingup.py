"""CURL-SAC with and without SEER on cartpole-swingup, and with an encoder from another task, at reduced scale.

python -m experiments.cartpole_swingup run    # trains what results/ lacks, one run after the other: an hour or two
python -m experiments.cartpole_swingup speed  # both phases' speed; wants a machine with nothing else to do
python -m experiments.cartpole_swingup table  # prints the tables of the README from results/
python -m experiments.cartpole_swingup random # what random actions return

Reduced against the paper: 38 pixels cropped to 32 instead of 100 to 84, rendered without shadows and multisampling;
batches, and so negatives, of 64 instead of 128, at half the learning rate; a freeze after 5000 agent steps instead of
10,000, and runs of 12,000 (24,000 with SEER) instead of 80,000.
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

RESULTS = pathlib.Path(__file__).parent / "results" / "cartpole_swingup"
SEEDS = (0, 1)
STEPS, FREEZE_STEP, SEER_STEPS = 12_000, 5_000, 24_000


def make_config(seed: int, **changes) -> ConfigDict:
    """Returns the configuration of one run; `changes` are overrides by dotted name, dots as __."""
    config = curl_dmc.get_config()
    reduced = {
        "seed": seed,
        "log_every": 1000,
        "eval_every": 2000,
        "checkpoint_every": 6000,
        "env.image_size": 38,
        "env.crop_size": 32,
        "env.render_quality": "fast",
        "agent.batch_size": 64,
        "agent.learning_rate": 5e-4,
        "replay.capacity": 40_000,
        "seer.freeze_step": FREEZE_STEP,
    }
    config.update_from_flattened_dict(reduced | {name.replace("__", "."): value for name, value in changes.items()})
    return config


def configs() -> dict[str, ConfigDict]:
    arms = {}
    for seed in SEEDS:
        arms[f"curl-s{seed}"] = make_config(seed, total_steps=STEPS, seer__enabled=False)
        arms[f"seer-s{seed}"] = make_config(seed, total_steps=SEER_STEPS)
    return arms


def run() -> None:
    runs.run_missing(RESULTS, configs())
    if (RESULTS / "transfer-s0.jsonl").exists():
        return
    with tempfile.TemporaryDirectory() as directory:
        source, target = pathlib.Path(directory) / "source", pathlib.Path(directory) / "target"
        train.run(make_config(0, env__task="cartpole-balance", total_steps=6000), source)
        train.run(make_config(0, total_steps=SEER_STEPS, seer__freeze_step=0, seer__init_from=str(source)), target)
        runs.keep(source, RESULTS, "source-s0")
        runs.keep(target, RESULTS, "transfer-s0")


def speed() -> None:
    (RESULTS / "speed.jsonl").unlink(missing_ok=True)
    runs.run_missing(RESULTS, {"speed": make_config(0, total_steps=3000, seer__freeze_step=2000)})


def random_return(episodes: int = 10) -> float:
    config = config_lib.resolve(make_config(0)).unlock()
    config.eval_episodes = episodes
    env, rng = registry.make_env(config, training=False), np.random.default_rng(0)
    step, total = env.reset(), np.zeros(episodes)
    while not step.last.all():
        step = env.step(rng.uniform(-1.0, 1.0, (episodes, *env.action_spec.shape)))
        total += step.score
    env.close()
    return float(total.mean())


def table() -> None:
    rows = {f"CURL, seed {seed}": f"curl-s{seed}" for seed in SEEDS}
    rows |= {f"CURL + SEER, seed {seed}": f"seer-s{seed}" for seed in SEEDS}
    rows["encoder of cartpole-balance, frozen, seed 0"] = "transfer-s0"
    runs.print_evaluations(RESULTS, rows, every=2000, random=random_return())
    end, alone = (runs.records(RESULTS, name, "end")[0] for name in ("seer-s0", "speed"))
    runs.print_phases("cartpole-swingup, reduced", end, alone)
    runs.print_bytes(*handover.bytes_per_row(config_lib.resolve(make_config(0))))


COMMANDS = {"run": run, "speed": speed, "table": table, "random": lambda: print(f"{random_return():.1f}")}


if __name__ == "__main__":
    sys.exit(runs.main(__doc__, COMMANDS, sys.argv))
