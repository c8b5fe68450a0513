"""The disk that a run needs, before it starts."""

import jax
import numpy as np
import rich.table

from seer_jax.run.assembly import Assembly
from seer_jax.seer import signals
from seer_jax.seer.phases import FULL, Phase

_LINE_BYTES = 1500  # of a record of kind train, eval or signal, in metrics.jsonl and in tensorboard/ together


def needed(parts: Assembly, phases: list[str]) -> dict[str, int]:
    """Returns the bytes that the files of a run, of all its seeds, take at most; lines of episodes are not counted.

    Args:
      parts: the assembly of the run.
      phases: names of its phases, in order.
    """
    config, saved = parts.config, {name: _checkpoint_bytes(parts.phase(name)) for name in phases}
    num_signals = config.full_steps // config.seer.signal_every if config.seer.signal_every else 0
    if FULL in phases:
        encoder_bytes = _num_bytes(signals.encoder_of(parts.full.state.params))
        saved[FULL] += min(signals.MOST_KEPT, num_signals) * encoder_bytes
    needed = {"the last checkpoint": saved[phases[-1]]}
    if config.checkpoint_every:
        at_once = min(config.checkpoints_kept + 1, config.total_steps // config.checkpoint_every + 1)
        needed = {f"{at_once} checkpoints, one of which is being written": at_once * max(saved.values())}
    if stay := sum(step <= config.total_steps for step in config.checkpoint_at):
        needed[f"{stay} checkpoints to fork from"] = stay * max(saved.values())
    if len(phases) == 2:
        needed["snapshot of the frames at the freeze"] = saved[phases[0]]
    if config.params_every:
        copies = config.total_steps // config.params_every + 1
        needed[f"{copies:,} copies of the parameters"] = copies * _num_bytes(parts.phase(phases[0]).state.params)
    if config.keep_best:
        kept = config.checkpoints_kept + 1
        needed[f"{kept} states of best evaluations"] = kept * _num_bytes(parts.phase(phases[0]).state)
    lines = config.total_steps // config.log_every + config.total_steps // config.eval_every + num_signals
    needed["metrics, without those of episodes"] = lines * _LINE_BYTES
    return {name: count * config.num_seeds for name, count in needed.items()}


def table(parts: Assembly, phases: list[str]) -> rich.table.Table:
    """Returns what `needed` does, and its sum, to print."""
    files = needed(parts, phases)
    seeds = f" of {parts.config.num_seeds} seeds" if parts.config.num_seeds > 1 else ""
    table = rich.table.Table(title=f"disk{seeds}, at most")
    table.add_column("")
    table.add_column("MB", justify="right")
    for i, (name, count) in enumerate(files.items()):
        table.add_row(name, f"{count / 1e6:,.1f}", end_section=i + 1 == len(files))
    table.add_row("sum", f"{sum(files.values()) / 1e6:,.1f}")
    return table


def _checkpoint_bytes(phase: Phase) -> int:
    """Returns the bytes of a checkpoint of a full ring."""
    return phase.ring_spec.num_steps * _num_bytes(phase.row) + _num_bytes((phase.ring.index, phase.state, phase.actor))


def _num_bytes(tree: object) -> int:
    return sum(x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))
