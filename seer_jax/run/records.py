"""The records that a run writes: what each line holds, and who receives it."""

from collections.abc import Callable, Sequence
from typing import Any

from seer_jax.run.progress import Progress

Record = dict[str, Any]  # one line of `metrics.jsonl`; `kind` says what it holds
Receiver = Callable[[Record], None]


class RecordWriter:
    """Completes records by what every record holds, and passes them on.

    Args:
      receivers: each is called with every record, in this order.
      frames_per_step: frames of one agent step.
    """

    def __init__(self, receivers: Sequence[Receiver], *, frames_per_step: int) -> None:
        self._receivers = receivers
        self._frames_per_step = frames_per_step

    def complete(self, kind: str, progress: Progress, fields: Record) -> Record:
        """Returns a record with what every record holds.

        Args:
          kind: `train`, `episode`, `eval`, `signal`, `freeze`, `reset`, `checkpoint` or `end`.
          progress: of the run.
          fields: what this kind holds apart from the common fields.
        """
        total, cost = progress.ledger.total, progress.costs[progress.phase]
        return {
            "kind": kind,
            "env_steps": progress.env_steps,
            "frames": progress.env_steps * self._frames_per_step,
            "updates": progress.updates,
            "seconds": round(progress.clock.elapsed, 3),
            "phase": progress.phase,
            "flops_total": total.flops,
            "macs_total": total.macs,
            "replay_bytes": cost["replay_bytes"],
            "replay_capacity": cost["replay_capacity"],
            "replay_size": progress.rows,
        } | fields

    def write(self, kind: str, progress: Progress, fields: Record) -> Record:
        """Writes a record and returns it; arguments as of `complete`."""
        record = self.complete(kind, progress, fields)
        for receive in self._receivers:
            receive(record)
        return record
