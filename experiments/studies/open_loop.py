"""Scores of open-loop policies, which ignore observations: a baseline that a trained agent must exceed.

python -m experiments.studies.open_loop --config=configs/rainbow_atari.py --config.env.task=krull [--episodes=10]

They are random actions, and one constant action: each of the discrete actions, or no force where actions are vectors.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator

import numpy as np
import rich.console
import rich.table
from absl import flags
from dm_env import specs

from seer_jax import cli
from seer_jax.envs import registry, timestep
from seer_jax.fields import ConfigError
from seer_jax.run import resolve

Policy = Callable[[], np.ndarray]  # returns the actions of all environments, [E, ...]


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    values = cli.make_flags()
    cli.define_config(values, argv, "Configuration of the task.")
    flags.DEFINE_integer("episodes", 10, "Episodes of each policy.", 1, 1000, flag_values=values)
    return cli.main(argv, __doc__, values, _print_scores, (ConfigError,))


def _print_scores(values: flags.FlagValues) -> None:
    if values.config is None:
        raise cli.UsageError("--config=FILE is missing, for example --config=configs/rainbow_atari.py")
    config = dataclasses.replace(resolve.resolve(cli.loaded(values.config)), eval_episodes=values.episodes)
    table = rich.table.Table(title=f"{config.env.task}, {values.episodes} episodes")
    for column in ("policy", "score"):
        table.add_column(column, justify="right")
    env = registry.make_env(config, training=False)
    try:
        for name, policy in policies(env.action_spec, env.num_envs, np.random.default_rng(config.seed)):
            scores = play(env, policy)
            table.add_row(name, f"{scores.mean():,.1f} ± {scores.std():,.1f}")
    finally:
        env.close()
    rich.console.Console().print(table)


def policies(action_spec: specs.Array, num_envs: int, rng: np.random.Generator) -> Iterator[tuple[str, Policy]]:
    """Yields the name and the policy of each open-loop policy.

    Args:
      action_spec: of one environment.
      num_envs: number of environments, E.
      rng: of the random policy.
    """
    if isinstance(action_spec, specs.DiscreteArray):
        num_actions = action_spec.num_values
        yield "random", lambda: rng.integers(num_actions, size=num_envs)
        for action in range(num_actions):
            yield f"always {action}", lambda action=action: np.full(num_envs, action)
    else:
        shape = (num_envs, *action_spec.shape)
        yield "random", lambda: rng.uniform(-1.0, 1.0, shape)
        yield "no force", lambda: np.zeros(shape)


def play(env: timestep.VectorEnv, policy: Policy) -> np.ndarray:
    """Plays one episode in every environment and returns their scores, `[E]`."""
    scores, running, step = np.zeros(env.num_envs), np.ones(env.num_envs, bool), env.reset()
    while running.any():
        step = env.step(policy())
        scores += np.where(running, step.score, 0.0)
        running &= ~step.last
    return scores


if __name__ == "__main__":
    sys.exit(main(sys.argv))
