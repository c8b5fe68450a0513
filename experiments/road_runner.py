"""Rainbow with and without SEER on RoadRunner: 60,000 agent steps at the paper's hyperparameters, freeze at 20,000.

python -m experiments.road_runner run      # trains what results/ lacks, one run after the other: hours
python -m experiments.road_runner speed    # both phases' speed; wants a machine with nothing else to do
python -m experiments.road_runner table    # prints the tables of the README from results/
python -m experiments.road_runner constant # what policies score that never change their action
"""

import json
import pathlib
import sys
import tempfile

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import rainbow_atari
from seer_jax import config as config_lib
from seer_jax import evaluate, handover, train
from seer_jax.envs import atari_scores, registry

RESULTS = pathlib.Path(__file__).parent / "results" / "road_runner"
ARMS = {"Rainbow": "baseline", "Rainbow + SEER": "paper"}
SEEDS = (0, 1)
KEPT = ("train", "eval", "freeze", "end")


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


def keep(run_dir: pathlib.Path, path: pathlib.Path) -> None:
    """Copies a run's records to `path`, without the many of single episodes."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["kind"] in KEPT))


def run() -> None:
    for preset in ARMS.values():
        for seed in SEEDS:
            path = RESULTS / f"{preset}-s{seed}.jsonl"
            if path.exists():
                continue
            with tempfile.TemporaryDirectory() as directory:  # anew after an interruption
                run_dir = pathlib.Path(directory) / "run"
                train.run(make_config(preset, seed), run_dir)
                keep(run_dir, path)


def speed() -> None:
    with tempfile.TemporaryDirectory() as directory:
        config = make_config("paper", 0, total_steps=10_000, freeze_step=6_000)
        train.run(config, pathlib.Path(directory) / "run")
        keep(pathlib.Path(directory) / "run", RESULTS / "speed.jsonl")


def records(name: str, kind: str) -> list[dict]:
    path = RESULTS / f"{name}.jsonl"
    if not path.exists():
        sys.exit(f"road_runner: {path.name} is missing; make it with the command run or speed")
    lines = path.read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def table() -> None:
    steps = sorted({10_000 * round(r["env_steps"] / 10_000) for r in records("paper-s0", "eval")})
    reference = atari_scores.REFERENCE_SCORES["road_runner"]
    print("| agent steps | " + " | ".join(f"{step:,}" for step in steps) + " | TFLOP |")
    print("|---|" + "---|" * (len(steps) + 1))
    for arm, preset in ARMS.items():
        for seed in SEEDS:
            means = [record["eval_return_mean"] for record in records(f"{preset}-s{seed}", "eval")]
            flops = records(f"{preset}-s{seed}", "end")[0]["flops_total"] / 1e12
            cells = " | ".join(f"{mean:,.0f}" for mean in means)
            print(f"| {arm}, seed {seed} | {cells} | {flops:.1f} |")
    print("| random play | " + " | ".join([f"{reference.random:,.1f}"] * len(steps)) + " | |")

    print("\n| RoadRunner | full phase (frames) | frozen phase (latents) | ratio |\n|---|---|---|---|")
    end, frozen = records("paper-s0", "end")[0], records("speed", "end")[0]
    for label, record, name, unit in (
        ("agent steps/s", frozen, "steps_per_second", 1),
        ("MFLOP per agent step (XLA's count)", end, "flops_per_step", 1e6),
        ("replay rows allocated", end, "replay_capacity", 1),
        ("replay MB", end, "replay_bytes", 1e6),
    ):
        full, latent = (record[f"{phase}_{name}"] / unit for phase in ("full", "frozen"))
        print(f"| {label} | {full:,.0f} | {latent:,.0f} | {latent / full:.2f} |")
    baseline = records("baseline-s0", "end")[0]
    frame, latent = handover.bytes_per_row(make_config("paper", 0))
    print(f"| bytes of a stored observation | {frame:,} | {latent:,} | {latent / frame:.2f} |")
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


def main(argv: list[str]) -> int:
    if len(argv) != 2 or argv[1] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    COMMANDS[argv[1]]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
