"""seer_jax from Python: make a configuration, train, receive every record, and act with the trained agent.

    python examples/from_python.py [RUN_DIR]

Takes one to two minutes on 2 cores. The run is much too short to learn to play.
"""

import pathlib
import sys
import tempfile

import envpool
import numpy as np
from ml_collections import ConfigDict

from seer_jax import train
from seer_jax.configs import rainbow_atari
from seer_jax.run.policy import Policy, load_policy
from seer_jax.run.records import Record

STEPS_TO_PLAY = 200


def make_config() -> ConfigDict:
    """Returns the preset `quick`, shorter."""
    config = rainbow_atari.get_config("quick")
    config.update_from_flattened_dict(
        {"env.task": "breakout", "total_steps": 3000, "seer.freeze_step": 2000, "eval_every": 3000, "eval_episodes": 2}
    )
    return config


def log(record: Record) -> None:
    """Receives every record. To feed Weights & Biases, call `wandb.init()` first and `wandb.log(...)` here."""
    numbers = {f"{record['kind']}/{name}": value for name, value in record.items() if isinstance(value, (int, float))}
    # wandb.log(numbers, step=record["env_steps"])
    if record["kind"] in ("freeze", "eval"):
        print(record["kind"], "after", record["env_steps"], "agent steps:", len(numbers), "numbers")


def play(policy: Policy) -> float:
    """Plays the game in an environment of one's own and returns the sum of its rewards."""
    env = envpool.make_gymnasium("Breakout-v5", num_envs=1, stack_num=1, noop_max=30)
    frame, _ = env.reset()
    score, first = 0.0, np.ones(1, bool)
    for _ in range(STEPS_TO_PLAY):
        action = policy(frame[:, 0, :, :, None], first)
        frame, reward, terminated, truncated, _ = env.step(action)
        score, first = score + float(reward[0]), terminated | truncated
    env.close()
    return score


def main(run_dir: pathlib.Path) -> None:
    end = train.run(make_config(), run_dir, receivers=[log])
    print(f"{end['env_steps']} agent steps, {end['macs_total'] / 1e9:.0f} G multiply-accumulates")
    print("score in an environment of one's own:", play(load_policy(run_dir)))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="seer_jax-")) / "run")
