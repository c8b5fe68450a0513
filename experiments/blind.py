"""What policies that look at nothing score on a task: what learning has to beat.

python -m experiments.blind --config=configs/rainbow_atari.py --config.env.task=krull [--episodes=10]

They are random actions and one action that never changes: each choice, or no force at all where actions are vectors.
"""

import sys
from collections.abc import Callable, Iterator

import numpy as np
import rich.console
import rich.table
from absl import flags
from dm_env import specs

from seer_jax import cli
from seer_jax.envs import registry, timestep
from seer_jax.run import resolve as config_lib

Policy = Callable[[], np.ndarray]  # actions of all environments, [E, ...]


def main(argv: list[str]) -> int:
    values = cli.make_flags()
    cli.define_config(values, argv, "Configuration of the task.")
    flags.DEFINE_integer("episodes", 10, "Of each policy.", 1, 1000, flag_values=values)
    return cli.main(argv, __doc__, values, _tell, (config_lib.ConfigError,))


def _tell(values: flags.FlagValues) -> None:
    if values.config is None:
        raise cli.UsageError("--config=FILE is missing, for example --config=configs/rainbow_atari.py")
    config = config_lib.resolve(cli.loaded(values.config)).unlock()
    config.eval_episodes = values.episodes
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


def policies(spec: specs.Array, num_envs: int, rng: np.random.Generator) -> Iterator[tuple[str, Policy]]:
    """Returns policies by name, for actions like `spec`."""
    if isinstance(spec, specs.DiscreteArray):
        yield "random", lambda: rng.integers(spec.num_values, size=num_envs)
        for action in range(spec.num_values):
            yield f"always {action}", lambda action=action: np.full(num_envs, action)
    else:
        shape = (num_envs, *spec.shape)
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
