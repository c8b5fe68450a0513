"""Rainbow with and without SEER on RoadRunner: 60,000 agent steps at the paper's hyperparameters, freeze at 20,000.

python -m experiments.road_runner run      # trains what results/ lacks, one run after the other: hours
python -m experiments.road_runner speed    # both phases' speed; wants a machine with nothing else to do
python -m experiments.road_runner table    # prints the tables of the README from results/
python -m experiments.road_runner constant # what policies score that never change their action
"""

import pathlib
import sys

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import rainbow_atari
from experiments import runs
from seer_jax import config as config_lib
from seer_jax import evaluate, handover
from seer_jax.envs import atari_scores, registry

RESULTS = pathlib.Path(__file__).parent / "results" / "road_runner"
ARMS = {"Rainbow": "baseline", "Rainbow + SEER": "paper"}
SEEDS = (0, 1)


def make_config(preset: str, seed: int, *, total_steps: int = 60_000, freeze_step: int = 20_000) -> ConfigDict:
    config = rainbow_atari.get_config(preset)
    config.update_from_flattened_dict(
        {
            "env.task": "road_runner",
            "seed": seed,
            "total_steps": total_steps,
            "seer.freeze_step": freeze_step,
            "checkpoint_every": 10_000,
        }
    )
    return config


def run() -> None:
    runs.run_missing(
        RESULTS, {f"{preset}-s{seed}": make_config(preset, seed) for preset in ARMS.values() for seed in SEEDS}
    )


def speed() -> None:
    (RESULTS / "speed.jsonl").unlink(missing_ok=True)
    runs.run_missing(RESULTS, {"speed": make_config("paper", 0, total_steps=10_000, freeze_step=6_000)})


def table() -> None:
    rows = {f"{arm}, seed {seed}": f"{preset}-s{seed}" for arm, preset in ARMS.items() for seed in SEEDS}
    fixed = {"random play": atari_scores.REFERENCE_SCORES["road_runner"].random}
    runs.print_evaluations(RESULTS, rows, columns=range(10_000, 60_001, 10_000), fixed=fixed)
    end, speed = (runs.records(RESULTS, name, "end")[0] for name in ("paper-s0", "speed"))
    runs.print_phases("RoadRunner", end, speed)
    runs.print_bytes(*handover.bytes_per_row(config_lib.resolve(make_config("paper", 0))))
    baseline = runs.records(RESULTS, "baseline-s0", "end")[0]
    print(f"| replay MB without SEER, 500,000 rows | {baseline['replay_bytes'] / 1e6:,.0f} | | |")


def constant() -> None:
    config = config_lib.resolve(make_config("paper", 0)).unlock()
    config.eval_episodes = 18  # one environment for each action
    env = registry.make_env(config, training=False)
    played = evaluate.play(
        lambda params, stack, timestep, key, step: (np.arange(18), stack),
        params={},
        env=env,
        key=jax.random.PRNGKey(0),
        frame_stack=1,
    )
    print("score of one episode by action:", " ".join(f"{score:,.0f}" for score in played.scores))


COMMANDS = {"run": run, "speed": speed, "constant": constant, "table": table}


if __name__ == "__main__":
    sys.exit(runs.main(__doc__, COMMANDS, sys.argv))
