"""Shadow heads: whether heads learn on a frozen copy of an encoder as well as with the encoder that goes on learning.

python -m experiments.studies.shadow_heads RUN_DIR... [--updates=N] [--json=FILE]

At each checkpoint that a run kept in its full phase, two agents take the same updates on the same batches from the
replay of that time: one trains everything, and the other the heads alone, on a frozen copy of the encoder. Then both
are tested on transitions that the run collected after the checkpoint, which the next checkpoint holds. A rule would
freeze where the loss of the shadow is not above that of the other by more than a standard error.

It costs as much as the updates that it repeats. A run itself does not measure it.
"""

import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from seer_jax import cli, files, replay
from seer_jax.agents import base
from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.fields import ConfigError
from seer_jax.run import assembly, checkpoint, resolve, run_dir, state
from seer_jax.run.assembly import Assembly
from seer_jax.seer.phases import FULL

_TEST_BATCHES = 32

Step = Callable[[base.TrainState, replay.Ring], tuple[base.TrainState, jax.Array]]  # an update, and the loss `[B]`


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    values = cli.make_flags()
    flags.DEFINE_integer("updates", 500, "Updates of both agents at each checkpoint.", 1, 1_000_000, flag_values=values)
    flags.DEFINE_string("json", None, "File that gets the results, too.", flag_values=values)
    return cli.main(argv, __doc__, values, _run, (ConfigError, files.DamagedFileError), takes_operands=True)


def _run(values: flags.FlagValues, *paths: str) -> int:
    if not paths:
        raise cli.UsageError("RUN_DIR is missing; name the directories of runs that kept checkpoints")
    found: dict[str, list[dict[str, float]]] = {}
    for path in map(pathlib.Path, paths):
        found[path.name] = []
        for result in compare(path, values.updates):
            found[path.name].append(result)
            print(path.name, "  ".join(f"{name} {value:,.6g}" for name, value in result.items()), flush=True)
    if values.json is not None:
        files.write_file(pathlib.Path(values.json), json.dumps(found, indent=1).encode() + b"\n")
    return 0


def compare(directory: pathlib.Path, updates: int) -> Iterator[dict[str, float]]:
    """Yields the losses of both agents for each checkpoint of the full phase that has a later one.

    Args:
      directory: of a run with uniform replay.
      updates: of both agents.

    Raises:
      ConfigError: replay is prioritized, or there are fewer than two checkpoints of the full phase.
    """
    config = resolve.resolve(run_dir.read_config(directory))
    if config.replay.prioritized:
        raise ConfigError(f"{directory} has prioritized replay, which two agents would change differently")
    saved = [each for each in _checkpoints(directory) if each.progress["phase"] == FULL]
    if len(saved) < 2:
        raise ConfigError(
            f"{directory} has {len(saved)} checkpoints of the full phase, and two are needed; set checkpoint_at"
        )
    parts = _assemble(config)
    live, shadow = (jax.jit(step) for step in _steps(parts))
    begun = state.restore(parts, [saved[0]])
    for now, following in itertools.pairwise(saved):
        later = state.restore(parts, [following])
        test_ring = _only_after(parts, later.ring, now.progress["rows"])
        agents = (begun.train, parts.agent.freeze(begun.train))
        losses = []
        for step, agent in zip((live, shadow), agents, strict=True):
            for _ in range(updates):
                agent, _ = step(agent, begun.ring)
            losses.append(_test(step, agent, test_ring))
        difference = losses[1] - losses[0]
        yield {
            "env_steps": now.progress["env_steps"],
            "live_loss": float(losses[0].mean()),
            "shadow_loss": float(losses[1].mean()),
            "standard_error": float(difference.std(ddof=1) / np.sqrt(difference.size)),
        }
        begun = later


def _checkpoints(directory: pathlib.Path) -> list[checkpoint.Checkpoint]:
    checkpoints = directory / checkpoint.DIRECTORY
    return [checkpoint.read(checkpoints, number) for number in checkpoint.numbers(checkpoints)]


def _assemble(config: RunConfig) -> Assembly:
    env = registry.make_env(config, training=True)
    try:
        return assembly.assemble(config, env.action_spec)
    finally:
        env.close()


def _steps(parts: Assembly) -> Sequence[Step]:
    """Returns an update of everything and one of the heads, both on frames."""
    agent, full = parts.agent, parts.full

    def sample(train: base.TrainState, ring: replay.Ring) -> replay.Batch:
        k_sample, _ = base.update_keys(train)
        return replay.sample(full.ring_spec, ring, k_sample, batch_size=full.batch_size)

    def encoded(train: base.TrainState, batch: replay.Batch) -> replay.Batch:
        keys = jax.random.split(base.update_keys(train)[1])
        obs, next_obs = (
            base.latents_to_store(agent, train.params, x, key)[:, 0]
            for x, key in zip((batch.obs, batch.next_obs), keys, strict=True)
        )
        return batch.replace(obs=obs, next_obs=next_obs)

    def cycle(updates: Sequence[base.Update], batch_of: Callable[..., replay.Batch]) -> Step:
        def step(train: base.TrainState, ring: replay.Ring) -> tuple[base.TrainState, jax.Array]:
            losses: list[Any] = []
            for update in updates:
                train, loss, _ = update(train, batch_of(train, sample(train, ring)))
                losses.append(loss)
            return train, jnp.concatenate(losses)

        return step

    return cycle(agent.full.updates, lambda train, batch: batch), cycle(agent.frozen.updates, encoded)


def _only_after(parts: Assembly, ring: replay.Ring, rows: int) -> replay.Ring:
    """Returns a ring from which only the rows after the first `rows` are drawn."""
    spec = parts.full.ring_spec
    begin = replay.oldest(spec, ring)
    _, priorities = replay.read(spec, ring, begin, replay.size(spec, ring))
    after = begin + np.arange(len(priorities)) >= rows // spec.num_envs + spec.stack
    drawn = np.where(after[:, None], np.asarray(priorities), 0.0)
    return replay.restore(spec, ring, ring.index.max_priority, drawn, begin=begin)


def _test(step: Step, agent: base.TrainState, ring: replay.Ring) -> np.ndarray:
    """Returns the losses of an agent on batches from a ring, none of which changes it."""
    return np.concatenate([step(agent.replace(updates=agent.updates + i), ring)[1] for i in range(_TEST_BATCHES)])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
