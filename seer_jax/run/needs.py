"""What each phase of a run needs, without compilation: steps, rows and bytes; and the memory that there is."""

import contextlib
import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from seer_jax.config import RunConfig
from seer_jax.run.assembly import Assembly
from seer_jax.seer import capacity
from seer_jax.seer.phases import FROZEN, FULL, Phase

# Files in which Linux gives the memory limit of a container, in both versions of its control groups.
_CONTAINER_LIMITS = tuple(
    pathlib.Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory/memory.limit_in_bytes")
)


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """The sizes of one phase.

    Attributes:
      phase: `full` or `frozen`.
      env_steps: agent steps in it.
      replay_ratio: updates per agent step.
      capacity: rows of the ring.
      observation_bytes: bytes of one stored observation.
      ring_bytes: bytes of the ring.
      state_bytes: bytes of parameters, targets, optimizer state and the acting stacks.
    """

    phase: str
    env_steps: int
    replay_ratio: float
    capacity: int
    observation_bytes: int
    ring_bytes: int
    state_bytes: int

    @property
    def device_bytes(self) -> int:
        """Peak device memory as far as it is known, apart from that of the runtime itself."""
        return self.ring_bytes + self.state_bytes

    def fits(self, memory_bytes: int) -> bool:
        """Returns whether a device of so much memory can run the phase, as far as it is known."""
        return self.device_bytes <= memory_bytes

    def figures(self) -> dict[str, float | None]:
        """Returns what is known of the phase, by the names of `plan_output.FIGURES`; None is unknown."""
        return {
            "env_steps": self.env_steps,
            "replay_ratio": self.replay_ratio,
            "replay_rows": self.capacity,
            "observation_bytes": self.observation_bytes,
            "replay_bytes": self.ring_bytes,
            "state_bytes": self.state_bytes,
        }


def phases_of(config: RunConfig) -> dict[str, int]:
    """Returns the agent steps of each phase that a run has."""
    steps = {FULL: config.full_steps, FROZEN: config.total_steps - config.full_steps}
    return {phase: count for phase, count in steps.items() if count}


def sizes(parts: Assembly) -> list[PhasePlan]:
    """Plans bytes only, which takes no compilation."""
    observation_bytes: dict[str, int] = dict(zip((FULL, FROZEN), capacity.bytes_per_row(parts.config), strict=True))
    return [
        _sizes_of(parts.phase(name), env_steps, observation_bytes[name])
        for name, env_steps in phases_of(parts.config).items()
    ]


def _sizes_of(phase: Phase, env_steps: int, observation_bytes: int) -> PhasePlan:
    seeds, shards = phase.placement.num_seeds_on_device, phase.placement.num_shards
    return PhasePlan(
        phase=phase.name,
        env_steps=env_steps,
        replay_ratio=float(phase.replay_ratio),
        capacity=phase.ring_spec.capacity,
        observation_bytes=observation_bytes,
        ring_bytes=phase.ring.num_bytes * seeds // shards,
        state_bytes=_num_bytes((phase.state, phase.actor)) * seeds,
    )


def device_memory() -> int:
    """Returns the bytes of the first device: the accelerator's limit, or the machine's or container's for the CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # a file of the other version, or the value "max"
            limits.append(int(path.read_text()))
    return min(limits)


def _num_bytes(tree: Any) -> int:
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))
