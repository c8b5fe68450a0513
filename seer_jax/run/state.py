"""The state of a run: its progress on the host and its arrays on the device; begun, saved and restored as one."""

import dataclasses
import pathlib

import jax

from seer_jax import replay
from seer_jax.agents import base
from seer_jax.envs.timestep import TimeStep
from seer_jax.run import checkpoint, transfer
from seer_jax.run.assembly import Assembly
from seer_jax.run.progress import Progress
from seer_jax.seer.phases import FROZEN, FULL, Actor, init_actor


@dataclasses.dataclass
class RunState:
    """Everything that a run needs to continue, apart from its environments.

    Attributes:
      progress: counters.
      train: training state.
      actor: what acting remembers.
      ring: the ring of the current phase.
    """

    progress: Progress
    train: base.TrainState
    actor: Actor
    ring: replay.Ring


def begin(
    parts: Assembly, timestep: TimeStep, encoder: base.Params | None, *, k_agent: jax.Array, k_actor: jax.Array
) -> RunState:
    """Returns the state of a run before its first step.

    Args:
      parts: the assembly of the run.
      timestep: the first arrivals.
      encoder: encoder of another run to start from; None starts from a new one.
      k_agent: PRNG key of the training state.
      k_actor: PRNG key of acting.
    """
    config = parts.config
    train = parts.full.init_state(k_agent)
    if encoder is not None:
        train = transfer.replace_encoder(train, encoder)
    frozen_at_once = config.seer.enabled and config.seer.freeze_step == 0
    phase = parts.phase(FROZEN if frozen_at_once else FULL)
    if frozen_at_once:
        train = parts.agent.freeze(train)
    actor = init_actor(k_actor, timestep, config.env.frame_stack)
    return RunState(Progress(phase=phase.name), train, actor, phase.init_ring())


def save(state: RunState, parts: Assembly, run_dir: pathlib.Path, *, metrics_bytes: int) -> None:
    """Writes a checkpoint of the run.

    Args:
      state: the state.
      parts: the assembly of the run.
      run_dir: directory of the run.
      metrics_bytes: size of `metrics.jsonl`, to which a resumed run truncates it.

    Raises:
      StateOnlyError: there is room for the training state only; it is written, and an earlier checkpoint is intact.
      OSError: nothing could be written; earlier checkpoints are intact.
    """
    checkpoint.save(
        run_dir / checkpoint.DIRECTORY,
        state.progress.pool,
        progress=state.progress.to_json() | {"metrics_bytes": metrics_bytes},
        trees={"train": state.train, "actor": state.actor},
        spec=parts.phase(state.progress.phase).ring_spec,
        ring=state.ring,
        kept=parts.config.checkpoints_kept,
    )


def restore(parts: Assembly, saved: checkpoint.Checkpoint) -> RunState:
    """Returns the state that a checkpoint holds.

    Raises:
      DamagedFileError: it holds something of another shape or type.
    """
    progress = Progress.from_json(saved.progress)
    phase = parts.phase(progress.phase)
    trees, ring = saved.restore({"train": phase.state, "actor": phase.actor}, phase.ring_spec, phase.row)
    return RunState(progress, trees["train"], trees["actor"], ring)
