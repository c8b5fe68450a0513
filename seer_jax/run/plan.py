"""The plan of a run before it starts: bytes, FLOPs and, after a short calibration, time."""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table

from seer_jax import flops, status
from seer_jax.config import LATENT_DTYPES, RunConfig
from seer_jax.envs import registry
from seer_jax.envs.timestep import VectorEnv
from seer_jax.fields import ConfigError
from seer_jax.run import disk
from seer_jax.run.assembly import Assembly, assemble
from seer_jax.seer import capacity, phases
from seer_jax.seer.phases import FROZEN, FULL, Phase

_CALIBRATION_SECONDS = 5.0  # for each phase
# Files in which Linux gives the memory limit of a container, in both versions of its control groups.
_CONTAINER_LIMITS = tuple(
    pathlib.Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory/memory.limit_in_bytes")
)


class OutOfMemoryError(ConfigError):
    """The ring and state of a phase are larger than the device's memory.

    Args:
      message: one line.
      tables: the plan, to print.
    """

    def __init__(self, message: str, tables: list[rich.table.Table]) -> None:
        super().__init__(message)
        self.tables = tables


class Measured(NamedTuple):
    """What the compiled programs of a phase show.

    Attributes:
      temporary_bytes: peak temporary memory over the programs.
      cost: cost of an agent step.
      steps_per_second: agent steps per second on this machine.
    """

    temporary_bytes: int
    cost: flops.Cost
    steps_per_second: float


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """The costs of one phase.

    Attributes:
      phase: `full` or `frozen`.
      env_steps: agent steps in it.
      capacity: rows of the ring.
      observation_bytes: bytes of one stored observation.
      ring_bytes: bytes of the ring.
      state_bytes: bytes of parameters, targets, optimizer state and the acting stacks.
      measured: what only the compiled programs show; None before they are compiled.
    """

    phase: str
    env_steps: int
    capacity: int
    observation_bytes: int
    ring_bytes: int
    state_bytes: int
    measured: Measured | None = None

    @property
    def device_bytes(self) -> int:
        """Peak device memory, apart from that of the runtime itself."""
        temporary_bytes = self.measured.temporary_bytes if self.measured else 0
        return self.ring_bytes + self.state_bytes + temporary_bytes


def phases_of(config: RunConfig) -> dict[str, int]:
    """Returns the agent steps of each phase that a run has."""
    if not config.seer.enabled:
        return {FULL: config.total_steps}
    steps = {FULL: config.seer.freeze_step, FROZEN: config.total_steps - config.seer.freeze_step}
    return {phase: count for phase, count in steps.items() if count}


def sizes(parts: Assembly) -> list[PhasePlan]:
    """Plans bytes only, which takes no compilation."""
    observation_bytes: dict[str, int] = dict(zip((FULL, FROZEN), capacity.bytes_per_row(parts.config), strict=True))
    return [
        _sizes_of(parts.phase(name), env_steps, observation_bytes[name])
        for name, env_steps in phases_of(parts.config).items()
    ]


def _sizes_of(phase: Phase, env_steps: int, observation_bytes: int) -> PhasePlan:
    return PhasePlan(
        phase=phase.name,
        env_steps=env_steps,
        capacity=phase.ring_spec.capacity,
        observation_bytes=observation_bytes,
        ring_bytes=phase.ring.num_bytes,
        state_bytes=_num_bytes((phase.state, phase.actor)),
    )


def measure(parts: Assembly, env: VectorEnv, plan: PhasePlan) -> PhasePlan:
    """Compiles the programs of a phase, reads their costs, and runs them for some seconds.

    Args:
      parts: the assembly of the run.
      env: its training environments.
      plan: plan of the phase, from `sizes`.
    """
    phase = parts.phase(plan.phase)
    with status.activity(f"compiling the programs of the {phase.name} phase"):
        programs = phase.compile()
    with status.activity(f"measuring the speed of the {phase.name} phase"):
        steps_per_second = _steps_per_second(phase, env, programs, seed=parts.config.seed)
    measured = Measured(
        temporary_bytes=max(_temporary_bytes(program) for program in (programs.interact, programs.learn)),
        cost=programs.cost_per_step,
        steps_per_second=steps_per_second,
    )
    return dataclasses.replace(plan, measured=measured)


def show(config: RunConfig) -> None:
    """Prints the plan of a run, and starts nothing.

    Raises:
      OutOfMemoryError: it needs more device memory than there is.
    """
    env = registry.make_env(config, training=True)
    try:
        parts = assemble(config, env.action_spec)
        plans = sizes(parts)
        refuse_if_too_large(config, plans)
        plans = [measure(parts, env, plan) for plan in plans]
        refuse_if_too_large(config, plans)  # now with the temporary memory of the programs
    finally:
        env.close()
    console = rich.console.Console()
    for table in [*tables(config, plans), disk.table(parts, [plan.phase for plan in plans])]:
        console.print(table)


def refuse_if_too_large(config: RunConfig, plans: list[PhasePlan]) -> None:
    """Raises OutOfMemoryError if a phase needs more than the device has."""
    available = device_memory()
    for plan in plans:
        if plan.device_bytes > available:
            raise OutOfMemoryError(
                f"the {plan.phase} phase needs {_gb(plan.device_bytes)} of device memory and there are"
                f" {_gb(available)}; {' or '.join(_savings(config, plan.phase))}",
                tables(config, plans),
            )


def _savings(config: RunConfig, phase: str) -> list[str]:
    """Returns what makes the ring of a phase smaller."""
    fixes = [f"lower replay.capacity (now {config.replay.capacity:,})"]
    if phase == FULL and config.seer.enabled:
        fixes.append(f"lower seer.freeze_step (now {config.seer.freeze_step:,})")
    if phase == FROZEN and config.replay.grow_after_freeze:
        fixes.append("set replay.grow_after_freeze=False")
    if phase == FROZEN and config.replay.latent_dtype == "float32":
        fixes.append("set replay.latent_dtype=bfloat16")
    return fixes


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


def tables(config: RunConfig, plans: list[PhasePlan]) -> list[rich.table.Table]:
    """Returns the plan to print: both phases, and the bytes that latents of each dtype would take."""
    return [_phase_table(config, plans)] + ([_dtype_table(config)] if config.seer.enabled else [])


def _phase_table(config: RunConfig, plans: list[PhasePlan]) -> rich.table.Table:
    table = rich.table.Table(title=f"{config.env.task}, {config.total_steps:,} agent steps")
    table.add_column("")
    for plan in plans:
        table.add_column(f"{plan.phase} phase", justify="right")
    rows: dict[str, Callable[[PhasePlan], str]] = {
        "agent steps": lambda p: f"{p.env_steps:,}",
        "replay rows": lambda p: f"{p.capacity:,}",
        "bytes of a stored observation": lambda p: f"{p.observation_bytes:,}",
        "replay MB": lambda p: _mb(p.ring_bytes),
        "state MB": lambda p: _mb(p.state_bytes),
    }
    for label, cell in rows.items():
        table.add_row(label, *map(cell, plans))
    measured = [(plan, plan.measured) for plan in plans if plan.measured is not None]
    if len(measured) == len(plans):
        for label, format_cell in _MEASURED_ROWS.items():
            table.add_row(label, *(format_cell(plan, result) for plan, result in measured))
    table.caption = f"device memory: {_gb(device_memory())}"
    return table


_MEASURED_ROWS: dict[str, Callable[[PhasePlan, Measured], str]] = {
    "temporary memory of a program, MB": lambda plan, measured: _mb(measured.temporary_bytes),
    "device memory at its peak, MB": lambda plan, measured: _mb(plan.device_bytes),
    "MFLOP per agent step (XLA)": lambda plan, measured: f"{measured.cost.flops / 1e6:,.0f}",
    "M multiply-accumulates per agent step (paper)": lambda plan, measured: f"{measured.cost.macs / 1e6:,.0f}",
    "agent steps/s, measured": lambda plan, measured: f"{measured.steps_per_second:,.0f}",
    "time, without evaluation": lambda plan, measured: str(
        datetime.timedelta(seconds=round(plan.env_steps / measured.steps_per_second))
    ),
}


def _dtype_table(config: RunConfig) -> rich.table.Table:
    frame, _ = capacity.bytes_per_row(config)
    table = rich.table.Table(title="latents by dtype")
    for column in (
        "replay.latent_dtype",
        "bytes of a latent row",
        "of a frame's",
        f"rows in the bytes of {config.replay.capacity:,} frames",
    ):
        table.add_column(column, justify="right")
    larger = []
    for dtype in LATENT_DTYPES:
        other = dataclasses.replace(config, replay=dataclasses.replace(config.replay, latent_dtype=dtype))
        _, latent = capacity.bytes_per_row(other)
        table.add_row(dtype, f"{latent:,}", f"{latent / frame:.2f}", f"{capacity.capacity_in_same_bytes(other):,}")
        larger += [dtype] if latent > frame else []
    if larger:
        table.caption = (
            f"{' and '.join(larger)}: latents are larger than frames, so that the ring cannot grow, and needs more"
            " memory than the frames did"
        )
    return table


def _steps_per_second(phase: Phase, env: VectorEnv, programs: phases.Programs, *, seed: int) -> float:
    """Runs a phase on the real environments, as training does, with a new agent."""
    spec, key = phase.ring_spec, jax.random.PRNGKey(seed)
    *_, stack_channels = phase.actor.stack.shape
    frame_stack = stack_channels // phase.timestep.frame.shape[-1]
    state, ring, timestep = phase.init_state(key), phase.init_ring(), env.reset()
    actor = phases.init_actor(key, timestep, frame_stack)
    vector_steps_per_learn = phase.steps_per_learn / spec.num_envs
    warm_up = 2 * spec.n_step + frame_stack  # until something can be sampled
    steps, learned, began = -warm_up, 0, time.perf_counter()
    while steps <= 0 or time.perf_counter() < began + _CALIBRATION_SECONDS:
        if steps == 0:
            began = time.perf_counter()
        action, actor, ring = programs.interact(state.params, actor, ring, timestep)
        if steps >= (learned + 1) * vector_steps_per_learn:
            state, ring, _ = programs.learn(state, ring)
            learned += 1
        timestep, steps = env.step(np.asarray(action)), steps + 1
    jax.block_until_ready(state)
    return steps * spec.num_envs / (time.perf_counter() - began)


def _temporary_bytes(program: jax.stages.Compiled) -> int:
    """Returns the bytes of a call apart from its arguments: temporaries, and results not written over an argument."""
    memory: Any = program.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes


def _num_bytes(tree: Any) -> int:
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f}"


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
