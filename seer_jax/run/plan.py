"""What a run will cost, before it starts: bytes, FLOPs and, after a short calibration, time."""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table
from ml_collections import ConfigDict

from seer_jax import flops, replay
from seer_jax.envs import registry
from seer_jax.envs.timestep import VectorEnv
from seer_jax.run import assembly
from seer_jax.run import resolve as config_lib
from seer_jax.seer import handover, phases

_CALIBRATION_SECONDS = 5.0  # of each phase
# Where Linux says what a container may use, in both versions of its control groups.
_CONTAINER_LIMITS = tuple(
    pathlib.Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory/memory.limit_in_bytes")
)


class DoesNotFit(config_lib.ConfigError):
    """The ring and state of a phase are larger than the device's memory.

    Attributes:
      tables: the plan, to print.
    """

    def __init__(self, message: str, tables: list[rich.table.Table]):
        super().__init__(message)
        self.tables = tables


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """What one phase will cost.

    Attributes:
      phase: `full` or `frozen`.
      env_steps: agent steps in it.
      capacity: rows of the ring.
      observation_bytes: of one row.
      ring_bytes: of the whole ring.
      state_bytes: of parameters, targets, optimizer state and the acting stacks.
      temporary_bytes: what the hungrier program needs beside its arguments; None if it was not compiled.
      cost: of an agent step, likewise.
      steps_per_second: likewise.
    """

    phase: str
    env_steps: int
    capacity: int
    observation_bytes: int
    ring_bytes: int
    state_bytes: int
    temporary_bytes: int | None = None
    cost: flops.Cost | None = None
    steps_per_second: float | None = None

    @property
    def device_bytes(self) -> int:
        """Greatest need of device memory, apart from the runtime's own."""
        return self.ring_bytes + self.state_bytes + (self.temporary_bytes or 0)


def phases_of(config: ConfigDict) -> dict[str, int]:
    """Returns the agent steps of each phase that a run has."""
    if not config.seer.enabled:
        return {phases.FULL: config.total_steps}
    steps = {phases.FULL: config.seer.freeze_step, phases.FROZEN: config.total_steps - config.seer.freeze_step}
    return {phase: count for phase, count in steps.items() if count}


def sizes(parts: assembly.Assembly) -> list[PhasePlan]:
    """Plans bytes alone, which takes no compilation."""
    observation_bytes = dict(zip((phases.FULL, phases.FROZEN), handover.bytes_per_row(parts.config), strict=True))
    return [
        PhasePlan(
            phase=phase,
            env_steps=env_steps,
            capacity=parts.spec(phase).capacity,
            observation_bytes=observation_bytes[phase],
            ring_bytes=parts.ring(phase).num_bytes,
            state_bytes=_num_bytes((parts.state(phase), parts.actor)),
        )
        for phase, env_steps in phases_of(parts.config).items()
    ]


def measure(parts: assembly.Assembly, env: VectorEnv, plan: PhasePlan) -> PhasePlan:
    """Compiles the programs of a phase, asks them for their costs, and runs them for some seconds.

    Args:
      parts: of the run.
      env: its training environments.
      plan: of the phase, from `sizes`.
    """
    config, programs = parts.config, parts.compile(plan.phase)
    return dataclasses.replace(
        plan,
        temporary_bytes=max(_temporary_bytes(program) for program in (programs.interact, programs.learn)),
        cost=programs.cost_per_step(
            num_envs=config.num_envs, steps_per_learn=parts.updates_per_learn * config.update_every
        ),
        steps_per_second=_steps_per_second(parts, env, plan.phase, programs),
    )


def show(config: ConfigDict) -> None:
    """Prints what a run of a resolved configuration will cost, and starts nothing.

    Raises:
      DoesNotFit: it needs more device memory than there is.
    """
    env = registry.make_env(config, training=True)
    try:
        parts = assembly.assemble(config, env.action_spec)
        plans = sizes(parts)
        refuse_if_too_large(config, plans)
        plans = [measure(parts, env, plan) for plan in plans]
        refuse_if_too_large(config, plans)  # now with what the programs need beside ring and state
    finally:
        env.close()
    console = rich.console.Console()
    for table in tables(config, plans):
        console.print(table)


def refuse_if_too_large(config: ConfigDict, plans: list[PhasePlan]) -> None:
    """Raises `DoesNotFit` if a phase needs more than the device has."""
    available = device_memory()
    for plan in plans:
        if plan.device_bytes > available:
            raise DoesNotFit(
                f"the {plan.phase} phase needs {_gb(plan.device_bytes)} of device memory and there are"
                f" {_gb(available)}; lower replay.capacity (now {config.replay.capacity:,}), set"
                " seer.freeze_step earlier, or store narrower latents (replay.latent_dtype)",
                tables(config, plans),
            )


def device_memory() -> int:
    """Returns the bytes of the first device: the accelerator's limit, or the machine's or container's for the CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # another version's, or "max"
            limits.append(int(path.read_text()))
    return min(limits)


def tables(config: ConfigDict, plans: list[PhasePlan]) -> list[rich.table.Table]:
    """Returns the plan to print: both phases, and what latents of each dtype would take."""
    return [_phase_table(config, plans)] + ([_dtype_table(config)] if config.seer.enabled else [])


def _phase_table(config: ConfigDict, plans: list[PhasePlan]) -> rich.table.Table:
    table = rich.table.Table(title=f"{config.env.task}, {config.total_steps:,} agent steps")
    table.add_column("")
    for plan in plans:
        table.add_column(f"{plan.phase} phase", justify="right")
    rows = {
        "agent steps": lambda p: f"{p.env_steps:,}",
        "replay rows": lambda p: f"{p.capacity:,}",
        "bytes of a stored observation": lambda p: f"{p.observation_bytes:,}",
        "replay MB": lambda p: _mb(p.ring_bytes),
        "state MB": lambda p: _mb(p.state_bytes),
    }
    if all(plan.cost is not None for plan in plans):
        rows |= {
            "temporaries of a program, MB": lambda p: _mb(p.temporary_bytes),
            "device memory at its peak, MB": lambda p: _mb(p.device_bytes),
            "MFLOP per agent step (XLA)": lambda p: f"{p.cost.flops / 1e6:,.0f}",
            "M multiply-accumulates per agent step (paper)": lambda p: f"{p.cost.macs / 1e6:,.0f}",
            "agent steps/s, measured": lambda p: f"{p.steps_per_second:,.0f}",
            "time, without evaluation": lambda p: str(
                datetime.timedelta(seconds=round(p.env_steps / p.steps_per_second))
            ),
        }
    for label, cell in rows.items():
        table.add_row(label, *map(cell, plans))
    table.caption = f"device memory: {_gb(device_memory())}"
    return table


def _dtype_table(config: ConfigDict) -> rich.table.Table:
    frame, _ = handover.bytes_per_row(config)
    table = rich.table.Table(title="latents by dtype")
    for column in (
        "replay.latent_dtype",
        "bytes of a latent row",
        "of a frame's",
        f"rows in the bytes of {config.replay.capacity:,} frames",
    ):
        table.add_column(column, justify="right")
    for dtype in config_lib.LATENT_DTYPES:
        other = config.copy_and_resolve_references().unlock()
        other.replay.latent_dtype = dtype
        _, latent = handover.bytes_per_row(other)
        table.add_row(dtype, f"{latent:,}", f"{latent / frame:.2f}", f"{handover.capacity_in_same_bytes(other):,}")
    table.caption = (
        "above 1.00 latents are larger than frames: the ring cannot grow, and needs more memory than the frames did"
    )
    return table


def _steps_per_second(parts: assembly.Assembly, env: VectorEnv, phase: str, programs: phases.Programs) -> float:
    """Runs a phase on the real environments, as training does, with a new agent."""
    config, agent, spec = parts.config, parts.agent, parts.spec(phase)
    state = jax.jit(agent.init)(jax.random.PRNGKey(config.seed))
    state = state if phase == phases.FULL else agent.freeze(state)
    ring, timestep = replay.init(spec, parts.rows(phase)), env.reset()
    actor = phases.init_actor(jax.random.PRNGKey(config.seed), timestep, config.env.frame_stack)
    vector_steps_per_learn = parts.updates_per_learn * config.update_every / config.num_envs
    warm_up = 2 * spec.n_step + config.env.frame_stack  # until something can be sampled
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
    return steps * config.num_envs / (time.perf_counter() - began)


def _temporary_bytes(program: jax.stages.Compiled) -> int:
    """Returns what a call needs beside its arguments: temporaries, and results that do not take an argument's place."""
    memory = program.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes


def _num_bytes(tree) -> int:
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f}"


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
