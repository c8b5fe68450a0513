"""The arrays of a run on the device, those of all its seeds; begun, saved and restored as one."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seer_jax import replay, status
from seer_jax.agents import base
from seer_jax.config import RunConfig
from seer_jax.envs.timestep import TimeStep
from seer_jax.run import checkpoint, transfer
from seer_jax.run.assembly import Assembly
from seer_jax.run.seed import Keys, Seed, configs_of
from seer_jax.seer import signals
from seer_jax.seer.hosts import Hosts
from seer_jax.seer.phases import FROZEN, FULL, Actor, init_actor, place_actor
from seer_jax.seer.placed_ring import PlacedRing
from seer_jax.seer.placement import Placement

_ENCODERS = "encoders"  # those of earlier signals, among the trees of a checkpoint


@dataclasses.dataclass
class RunState:
    """Everything that a run needs to continue, apart from its environments and what its seeds have on the host.

    Attributes:
      phase: name of the current phase.
      train: training state.
      actor: what acting remembers.
      ring: the ring of the current phase.
      encoders: for each seed, by number from 0 on, the encoders of earlier signals that are kept.
    """

    phase: str
    train: base.TrainState
    actor: Actor
    ring: replay.Ring
    encoders: list[dict[int, base.Params]]


def begin(parts: Assembly, encoder: base.Params | None = None) -> RunState:
    """Returns the state of a run before its first step.

    Args:
      parts: the assembly of the run.
      encoder: encoder of another run to start from; None starts from a new one.
    """
    config, place = parts.config, parts.placement
    keys = [Keys(each.seed) for each in configs_of(config)]
    frozen_at_once = config.seer.enabled and config.seer.freeze_step == 0
    phase = parts.phase(FROZEN if frozen_at_once else FULL)

    def begin_seed(key: jax.Array) -> base.TrainState:
        train = parts.full.init_state(key)
        if encoder is not None:
            train = transfer.replace_encoder(train, encoder)
        return parts.agent.freeze(train) if frozen_at_once else train

    trains = [begin_seed(each.agent) for each in keys]
    actor = begin_actors(place, phase.timestep, config.env.frame_stack, keys)
    return RunState(phase.name, place.stack(trains, lanes=False), actor, phase.init_ring(), [{} for _ in keys])


def begin_actors(place: Placement, timestep: TimeStep, frame_stack: int, keys: Sequence[Keys]) -> Actor:
    """Returns what acting remembers before its first step.

    Args:
      place: the seeds, and the places of their arrays.
      timestep: shapes of what the environments of one seed send.
      frame_stack: frames in an observation.
      keys: of each seed.
    """
    return _stack_actors(place, [init_actor(each.actor, timestep, frame_stack) for each in keys])


def _stack_actors(place: Placement, actors: Sequence[Actor]) -> Actor:
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *actors) if len(actors) > 1 else actors[0]
    return place_actor(stacked, place.move)


def save(
    state: RunState, parts: Assembly, seeds: Mapping[int, Seed], hosts: Hosts | None = None
) -> dict[int, OSError | None]:
    """Writes a checkpoint of each of some seeds; of several hosts, process 0 does.

    Several seeds have a checkpoint if all of them do, apart from the last one: if that of one seed cannot be written,
    those of the others are removed. Earlier ones stay until then, so that an interrupted run finds one that all have.

    Args:
      state: the state.
      parts: the assembly of the run.
      seeds: by number, from 0 on.
      hosts: all of which call this; None stands for one.

    Returns:
      For each seed the error if its checkpoint could not be written: a `StateOnlyError` if there was space for the
      training state only, another OSError if nothing could be written. Earlier checkpoints are intact.
    """
    place, hosts = parts.placement, hosts or Hosts()
    trains, actors = place.unstack(state.train, hosts), place.unstack(state.actor, hosts)
    rings = PlacedRing.of(place, parts.phase(state.phase).ring_spec, state.ring, hosts)
    errors: dict[int, OSError | None] = dict.fromkeys(seeds)

    def write() -> list[Any]:
        trees = [
            {"train": train, "actor": actor, _ENCODERS: {str(step): each for step, each in encoders.items()}}
            for train, actor, encoders in zip(trains, actors, state.encoders, strict=True)
        ]
        errors.update(_write(parts.config, seeds, trees, rings))
        failed = {i: error for i, error in errors.items() if error is not None}
        return [[i, isinstance(e, checkpoint.StateOnlyError), e.errno, e.strerror] for i, e in failed.items()]

    for i, state_only, *reason in hosts.lead(write, rings.serve):
        errors[i] = errors[i] or (checkpoint.StateOnlyError if state_only else OSError)(*reason)
    return errors


def _write(
    config: RunConfig, seeds: Mapping[int, Seed], trees: Sequence[dict[str, Any]], rings: PlacedRing
) -> dict[int, OSError | None]:
    """Does what `save` does, with trees of arrays by seed."""
    errors: dict[int, OSError | None] = {}
    alone, kept = len(seeds) == 1, config.checkpoints_kept
    for i, seed in seeds.items():
        try:
            with status.activity(f"writing the checkpoint after {seed.progress.env_steps:,} steps"):
                checkpoint.save(
                    seed.run_dir / checkpoint.DIRECTORY,
                    seed.progress.pool,
                    progress=seed.to_json() | {_ENCODERS: [int(step) for step in trees[i][_ENCODERS]]},
                    trees=trees[i],
                    ring=rings[i],
                    kept=kept if alone else None,
                )
            errors[i] = None
        except OSError as error:
            errors[i] = error
    failed = next((error for error in errors.values() if error is not None), None)
    for i, seed in seeds.items():
        directory, number = seed.run_dir / checkpoint.DIRECTORY, seed.progress.pool
        if failed is None and not alone:
            checkpoint.remove_old(directory, number, kept=kept)
        elif errors[i] is None and not alone and seed.progress.env_steps < config.total_steps:
            checkpoint.remove_newer(directory, number - 1)
            errors[i] = OSError(failed.errno, failed.strerror)  # pyright: ignore[reportOptionalMemberAccess]
    return errors


def restore(parts: Assembly, saved: Sequence[checkpoint.Checkpoint | None], hosts: Hosts | None = None) -> RunState:
    """Returns the state that checkpoints hold.

    Args:
      parts: the assembly of the run.
      saved: of each seed; None for a seed that has stopped for good, whose arrays have no meaning.
      hosts: all of which call this; None stands for one.

    Raises:
      DamagedFileError: a checkpoint holds something of another shape or type.
    """
    place, there = parts.placement, [i for i, each in enumerate(saved) if each is not None]
    phase = parts.phase(saved[there[0]].progress["phase"])  # pyright: ignore[reportOptionalMemberAccess]
    rings = PlacedRing.of(place, phase.ring_spec, phase.init_ring(), hosts)
    like, encoder = {"train": phase.state, "actor": phase.actor}, signals.encoder_of(phase.state.params)
    trees = {
        i: each.restore(like | _encoders_like(encoder, each.progress), rings[i], phase.row)
        for i, each in enumerate(saved)
        if each is not None
    }
    by_seed = [trees.get(i, trees[there[0]]) for i in range(len(saved))]
    train = place.stack([each["train"] for each in by_seed], lanes=False)
    actor = _stack_actors(place, [each["actor"] for each in by_seed])
    # Trees come back in the order of their keys as text.
    encoders = [
        {step: each[_ENCODERS][str(step)] for step in sorted(map(int, each.get(_ENCODERS, ())))} for each in by_seed
    ]
    return RunState(phase.name, train, actor, rings.join(), encoders)


def _encoders_like(encoder: base.Params, progress: dict[str, Any]) -> dict[str, Any]:
    """Returns the shapes of the encoders that a checkpoint holds; those of earlier versions hold none."""
    return {_ENCODERS: {str(step): encoder for step in progress[_ENCODERS]}} if _ENCODERS in progress else {}
