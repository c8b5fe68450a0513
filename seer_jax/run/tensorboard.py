"""The numbers of a run as events for TensorBoard, each under one tag, and the configuration as hyperparameters."""

import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

from tensorboardX import event_file_writer
from tensorboardX import summary as summary_lib
from tensorboardX.proto import event_pb2 as _event_pb2
from tensorboardX.proto import summary_pb2 as _summary_pb2

from seer_jax.run.records import Record

# Generated modules, whose names a type checker does not see.
event_pb2: Any = _event_pb2
summary_pb2: Any = _summary_pb2

# Fields of every record. Only those of kind train become events: other kinds would repeat them at the same step.
_COMMON = {
    "frames": "progress/frames",
    "updates": "progress/updates",
    "seconds": "progress/seconds",
    "replay_size": "replay/size",
    "replay_capacity": "replay/capacity",
    "replay_bytes": "replay/bytes",
    "flops_total": "cost/flops_total",
    "macs_total": "cost/macs_total",
}
_COST_PREFIXES = ("flops_", "macs_")
_SHOWN_WITH_HPARAMS = ("eval/return_mean", "eval/human_normalized", "cost/flops_total", "cost/macs_total")


class EventsWriter:
    """Writes records as events.

    Args:
      directory: receives a new file.
      env_steps: agent step from which on TensorBoard forgets earlier events.
      kept: records that are as late, and whose events are therefore written again.
      hparams: hyperparameters by dotted name, for a run that begins.

    Raises:
      OSError: the file cannot be written.
    """

    def __init__(
        self, directory: pathlib.Path, *, env_steps: int, kept: Iterable[Record], hparams: Mapping[str, Any]
    ) -> None:
        # Not tensorboardX's SummaryWriter: its thread ends when the disk is full, and the next write waits forever.
        # Two files of one second must not have the same name.
        self._events = event_file_writer.EventsWriter(str(directory / "events"), f".{time.time_ns()}")
        self._write(env_steps, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))
        shown = {name: str(value) if isinstance(value, list) else value for name, value in hparams.items()}
        *begun, self._ended = summary_lib.hparams(shown, dict.fromkeys(_SHOWN_WITH_HPARAMS))
        for summary in begun if hparams else []:
            self._write(0, summary=summary)
        for record in kept:
            self.write(record)

    def write(self, record: Record) -> None:
        """Writes the numbers of a record; raises OSError if it cannot."""
        kind = record["kind"]
        tags = {tag: record[name] for name in record if (tag := tag_of(kind, name)) is not None}
        values = [
            summary_pb2.Summary.Value(tag=tag, simple_value=value)
            for tag, value in tags.items()
            if isinstance(value, (int, float))
        ]
        if values:
            self._write(record["env_steps"], summary=summary_pb2.Summary(value=values))
        if kind == "end":
            self._write(record["env_steps"], summary=self._ended)

    def _write(self, env_steps: int, **content: Any) -> None:
        self._events.write_event(event_pb2.Event(wall_time=time.time(), step=env_steps, **content))

    def flush(self) -> None:
        """Writes what is buffered; raises OSError if it cannot."""
        self._events.flush()

    def close(self) -> None:
        """Closes the file; raises OSError if what is buffered cannot be written."""
        self._events.close()


def tag_of(kind: str, name: str) -> str | None:
    """Returns the tag, `GROUP/NAME`, of a field of a record; None for a field that is not shown.

    Args:
      kind: of the record.
      name: of the field.
    """
    if name in _COMMON:
        return _COMMON[name] if kind == "train" else None
    if kind == "train":
        if name == "steps_per_second":
            return f"speed/{name}"
        return None if name == "env_steps" else f"{'cost' if name.startswith(_COST_PREFIXES) else 'train'}/{name}"
    if kind == "end":  # the phases; its other fields repeat those of train and eval
        phase, _, rest = name.partition("_")
        groups = {"steps_per_second": "speed", "flops_per_step": "cost", "macs_per_step": "cost"}
        groups |= {"replay_capacity": "replay", "replay_bytes": "replay"}
        return f"{groups[rest]}/{phase}_{rest.removeprefix('replay_')}" if rest in groups else None
    if kind in ("episode", "eval", "signal", "freeze"):
        return None if name == "env_steps" else f"{kind}/{name.removeprefix('eval_')}"
    return None
