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
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.report import names
from experiments.report.records import RunRecords
from seer_jax import cli, files, replay
from seer_jax.agents import base
from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.fields import ConfigError
from seer_jax.run import assembly, checkpoint, resolve, run_dir, state
from seer_jax.run.assembly import Assembly
from seer_jax.seer import pace
from seer_jax.seer.phases import FULL

_TEST_BATCHES = 32


class Result(TypedDict):
    """The results of a run.

    Attributes:
      params_sha256: checksum of the parameters with which it ended.
      checkpoints: what `compare` yields.
    """

    params_sha256: str
    checkpoints: list[dict[str, float]]


Results = dict[str, Result]  # by name of the run
Step = Callable[[base.TrainState, replay.Ring], tuple[base.TrainState, jax.Array]]  # an update, and the loss `[B]`


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    values = cli.make_flags()
    flags.DEFINE_integer("updates", 300, "Updates of both agents at each checkpoint.", 1, 1_000_000, flag_values=values)
    flags.DEFINE_string("json", None, "File that gets the results, too.", flag_values=values)
    return cli.main(argv, __doc__, values, _run, (ConfigError, files.DamagedFileError), takes_operands=True)


def _run(values: flags.FlagValues, *paths: str) -> int:
    if not paths:
        raise cli.UsageError("RUN_DIR is missing; name the directories of runs that kept checkpoints")
    found: Results = {}
    for path in map(pathlib.Path, paths):
        run = names.name(path)
        found[run] = {"params_sha256": _checksum(path), "checkpoints": []}
        for result in compare(path, values.updates):
            found[run]["checkpoints"].append(result)
            print(run, "  ".join(f"{name} {value:,.6g}" for name, value in result.items()), flush=True)
            if values.json is not None:
                files.write_file(pathlib.Path(values.json), json.dumps(found, indent=1).encode() + b"\n")
    return 0


def _checksum(directory: pathlib.Path) -> str:
    """Returns the checksum of the parameters with which a run ended."""
    end = run_dir.read_records(directory / run_dir.METRICS_FILE)[-1]
    if "params_sha256" not in end:
        raise ConfigError(f"{directory} has not ended; let it go on with --resume")
    return end["params_sha256"]


def results_of(run: RunRecords, file: pathlib.Path) -> list[dict[str, float]]:
    """Returns what a file of results says of a run, in order; nothing if it is about another run of that name."""
    found: Results = json.loads(file.read_text()) if file.exists() else {}
    known = found.get(run.name)
    same = known is not None and run.end is not None and known["params_sha256"] == run.end.get("params_sha256")
    return known["checkpoints"] if known is not None and same else []


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
        test_ring = _only_after(parts, later.ring, begun.ring)
        agents = (begun.train, parts.agent.freeze(begun.train))
        losses = []
        for step, agent in zip((live, shadow), agents, strict=True):
            for _ in range(updates):
                agent, _ = step(agent, begun.ring)
            losses.append(_test(parts, step, agent, test_ring))
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
    agent, full, since = parts.agent, parts.full, jnp.array(pace.since_start(parts.config.learn_start))

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
                steps = pace.steps_of(full.replay_ratio, since, train.updates)
                train, loss, _ = update(train, batch_of(train, sample(train, ring)), steps)
                losses.append(loss)
            return train, jnp.concatenate(losses)

        return step

    return cycle(agent.full.updates, lambda train, batch: batch), cycle(agent.frozen.updates, encoded)


def _only_after(parts: Assembly, ring: replay.Ring, earlier: replay.Ring) -> replay.Ring:
    """Returns a ring from which only rows are drawn that it got after another one, which it goes on from."""
    spec = parts.full.ring_spec
    begin, end = replay.oldest(spec, ring), replay.oldest(spec, earlier) + replay.size(spec, earlier)
    _, priorities = replay.read(spec, ring, begin, replay.size(spec, ring))
    after = begin + np.arange(len(priorities)) >= end + spec.stack
    drawn = np.where(after[:, None], np.asarray(priorities), 0.0)
    return replay.restore(spec, ring, ring.index.max_priority, drawn, begin=begin)


def _test(parts: Assembly, step: Step, agent: base.TrainState, ring: replay.Ring) -> np.ndarray:
    """Returns the losses of an agent on batches from a ring, none of which changes it."""
    cycle, batch_size = len(parts.agent.full.updates), parts.full.batch_size
    begun = [agent.replace(updates=agent.updates + i * cycle) for i in range(_TEST_BATCHES)]
    # Of a cycle of several updates, only the first has losses of the agent as it is.
    return np.concatenate([step(each, ring)[1][:batch_size] for each in begun])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
