"""The replay ring. Other packages use what this module names and do not read inside the records."""

from seer_jax.replay.frames import empty_stack, push_frame, stack_frames
from seer_jax.replay.records import Batch, Index, Ring, RingSpec, Rows, min_steps, row_shapes
from seer_jax.replay.ring import sampleable
from seer_jax.replay.shards import SHARDS, add, end_episodes, init, sample, update_priorities
from seer_jax.replay.time_order import free, oldest, read, restore, size, write

__all__ = [
    "SHARDS",
    "Batch",
    "Index",
    "Ring",
    "RingSpec",
    "Rows",
    "add",
    "empty_stack",
    "end_episodes",
    "free",
    "init",
    "min_steps",
    "oldest",
    "push_frame",
    "read",
    "restore",
    "row_shapes",
    "sample",
    "sampleable",
    "size",
    "stack_frames",
    "update_priorities",
    "write",
]
