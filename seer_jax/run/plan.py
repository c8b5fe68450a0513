"""The plan of a run before it starts, on this machine: bytes, FLOPs and, after a short calibration, time."""

import dataclasses
import importlib.metadata
import pathlib
import time
from collections.abc import Sequence

import jax
import numpy as np
import rich.table

from seer_jax import flops, status
from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.envs.timestep import VectorEnv
from seer_jax.fields import ConfigError
from seer_jax.run import compiled, disk, needs, plan_output
from seer_jax.run import state as state_lib
from seer_jax.run.assembly import Assembly, assemble
from seer_jax.run.needs import PhasePlan
from seer_jax.run.plan_output import Device
from seer_jax.run.seed import Keys, configs_of
from seer_jax.seer import phases
from seer_jax.seer.phases import FROZEN, FULL, Phase
from seer_jax.seer.placement import make_placement

_CALIBRATION_SECONDS = 5.0  # for each phase


class OutOfMemoryError(ConfigError):
    """A phase needs more than the device's memory.

    Args:
      message: one line.
      tables: the plan, to print.
    """

    def __init__(self, message: str, tables: list[rich.table.Table]) -> None:
        super().__init__(message)
        self.tables = tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredPlan(PhasePlan):
    """The costs of a phase whose programs ran here.

    Attributes:
      temporary_bytes: peak temporary memory over the programs.
      cost: cost of an agent step.
      steps_per_second: agent steps per second on this machine, of all seeds together.
      num_seeds: how many seeds take `env_steps` each.
    """

    temporary_bytes: int
    cost: flops.Cost
    steps_per_second: float
    num_seeds: int

    @property
    def device_bytes(self) -> int:
        return super().device_bytes + self.temporary_bytes

    def figures(self) -> dict[str, float | None]:
        return super().figures() | {
            "temporary_bytes": self.temporary_bytes,
            "device_bytes": self.device_bytes,
            "flops_per_step": self.cost.flops,
            "macs_per_step": self.cost.macs,
            "steps_per_second": self.steps_per_second,
            "seconds": self.num_seeds * self.env_steps / self.steps_per_second,
        }


def measure(parts: Assembly, env: VectorEnv, plan: PhasePlan) -> MeasuredPlan:
    """Compiles the programs of a phase, reads their costs, and runs them for some seconds.

    Args:
      parts: the assembly of the run.
      env: its training environments.
      plan: plan of the phase, from `needs.sizes`.
    """
    phase = parts.phase(plan.phase)
    with status.activity(f"compiling the programs of the {phase.name} phase"):
        programs = phase.compile()
    with status.activity(f"measuring the speed of the {phase.name} phase"):
        keys = [Keys(each.seed) for each in configs_of(parts.config)]
        steps_per_second = _steps_per_second(phase, env, programs, keys)
    costs = [compiled.cost(program, platform="cpu") for program in (programs.interact, programs.learn)]
    return MeasuredPlan(
        **vars(plan),
        temporary_bytes=max(cost.temporary_bytes for cost in costs),
        cost=programs.cost_per_step,
        steps_per_second=steps_per_second,
        num_seeds=parts.config.num_seeds,
    )


def show(config: RunConfig, json_file: pathlib.Path | None = None) -> None:
    """Prints the plan of a run, and starts nothing.

    Args:
      config: the configuration.
      json_file: is written with the same figures.

    Raises:
      OutOfMemoryError: it needs more device memory than there is.
      OSError: `json_file` cannot be written.
    """
    device = this_device()
    make_placement(config)  # refuses a mesh that there is not before environments start
    env = registry.make_env(config, training=True, pools=[0] * config.num_seeds)
    try:
        parts = assemble(config, env.action_spec)
        plans = needs.sizes(parts)
        if plan_output.fits(plans, device):
            plans = [measure(parts, env, plan) for plan in plans]
    finally:
        env.close()
    names = [plan.phase for plan in plans]
    if json_file is not None:
        plan_output.write(json_file, config, plans, device, disk_bytes=disk.needed(parts, names))
    refuse_if_too_large(config, plans, device)  # now with the temporary memory of the programs
    plan_output.show([*_tables(config, plans, device), disk.table(parts, names)])


def this_device() -> Device:
    """Returns the device that runs use on this machine."""
    return Device(jax.devices()[0].device_kind, needs.device_memory(), f"jaxlib {importlib.metadata.version('jaxlib')}")


def refuse_if_too_large(config: RunConfig, plans: Sequence[PhasePlan], device: Device) -> None:
    """Raises OutOfMemoryError if a phase needs more than the device has."""
    for plan in plans:
        if not plan.fits(device.memory_bytes):
            known = plan.device_bytes > device.memory_bytes
            needed = plan_output.gb(plan.device_bytes) if known else "more than there is"
            raise OutOfMemoryError(
                f"the {plan.phase} phase needs {needed} of device memory and there are"
                f" {plan_output.gb(device.memory_bytes)}; {' or '.join(_savings(config, plan.phase))}",
                _tables(config, plans, device),
            )


def _savings(config: RunConfig, phase: str) -> list[str]:
    """Returns what makes the ring of a phase smaller."""
    fixes = [f"lower replay.capacity (now {config.replay.capacity:,})"]
    if config.num_seeds > config.mesh.seed:
        fixes.append(f"lower num_seeds (now {config.num_seeds})")
    if phase == FULL and config.seer.enabled:
        fixes.append(f"lower seer.freeze_step (now {config.full_steps:,})")
    if phase == FROZEN and config.replay.grow_after_freeze:
        fixes.append("set replay.grow_after_freeze=False")
    if phase == FROZEN and config.replay.latent_dtype == "float32":
        fixes.append("set replay.latent_dtype=bfloat16")
    return fixes


def _tables(config: RunConfig, plans: Sequence[PhasePlan], device: Device) -> list[rich.table.Table]:
    """Returns the plan to print: all phases, and the bytes that latents of each dtype would take."""
    return [
        plan_output.phase_table(config, plans, device),
        *([plan_output.dtype_table(config)] if config.seer.enabled else []),
    ]


def _steps_per_second(phase: Phase, env: VectorEnv, programs: phases.Programs, keys: Sequence[Keys]) -> float:
    """Runs a phase on the real environments, as training does, with a new agent for each seed; all seeds step."""
    spec, place, timestep = phase.ring_spec, phase.placement, env.reset()
    *_, stack_channels = phase.actor.stack.shape
    frame_stack = stack_channels // phase.timestep.frame.shape[-1]
    state = place.stack([phase.init_state(each.agent) for each in keys], lanes=False)
    actor, ring = state_lib.begin_actors(place, phase.timestep, frame_stack, keys), phase.init_ring()
    flags = (place.put(np.ones(len(keys), bool), lanes=False),) if len(keys) > 1 else ()
    due, calls_per_step = phase.whole_call(), spec.num_envs * phase.replay_ratio / phase.updates_per_learn()
    warm_up = 2 * spec.n_step + frame_stack  # until something can be sampled
    steps, learned, began = -warm_up, 0, time.perf_counter()
    while steps <= 0 or time.perf_counter() < began + _CALIBRATION_SECONDS:
        if steps == 0:
            began = time.perf_counter()
        arrived = place.put(timestep, lanes=True)
        action, actor, ring = programs.interact(state.params, actor, ring, arrived, *flags)
        while learned + 1 <= steps * calls_per_step:
            state, ring, _ = programs.learn(state, ring, due)
            learned += 1
        timestep, steps = env.step(np.asarray(action).reshape(env.num_envs, *env.action_spec.shape)), steps + 1
    jax.block_until_ready(state)
    return steps * env.num_envs / (time.perf_counter() - began)
