"""The replay ring: rows on the device, observations and n-step windows rebuilt at sampling."""

from seer_jax.replay.ring import (
    Batch,
    Ring,
    RingSpec,
    Rows,
    add,
    init,
    min_steps,
    push_frame,
    restore_priorities,
    row_shapes,
    sample,
    sampleable,
    stack_frames,
    update_priorities,
)

__all__ = [
    "Batch",
    "Ring",
    "RingSpec",
    "Rows",
    "add",
    "init",
    "min_steps",
    "push_frame",
    "restore_priorities",
    "row_shapes",
    "sample",
    "sampleable",
    "stack_frames",
    "update_priorities",
]
