"""The plan of a run on a device that is not there, as the compiler for that device makes it; nothing is run."""

import dataclasses
import pathlib
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from seer_jax import status
from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.run import compiled, disk, needs, plan, plan_output
from seer_jax.run.assembly import assemble
from seer_jax.run.compiled import ProgramCost
from seer_jax.run.needs import PhasePlan
from seer_jax.run.plan_output import Device
from seer_jax.run.targets import Target
from seer_jax.seer.phases import Phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetPlan(PhasePlan):
    """The costs of a phase whose programs were compiled for a target; `ring_bytes` and `state_bytes` are as laid out.

    Attributes:
      costs: of a call of `interact` and of `learn`; None if the compiler found that it does not fit.
      steps_per_call: agent steps, of all seeds on all devices, for each call of `interact` and of `learn`, the mean.
    """

    costs: dict[str, ProgramCost | None]
    steps_per_call: dict[str, float]

    @property
    def device_bytes(self) -> int:
        return super().device_bytes + max(cost.temporary_bytes for cost in self.costs.values() if cost)

    def fits(self, memory_bytes: int) -> bool:
        return all(self.costs.values()) and super().fits(memory_bytes)

    @property
    def optimal_steps_per_second(self) -> float | None:
        """Agent steps per second if every program took the compiler's optimal time, and nothing else took any."""
        seconds = 0.0
        for name, cost in self.costs.items():
            if cost is None or cost.optimal_seconds is None:
                return None
            seconds += cost.optimal_seconds / self.steps_per_call[name]
        return 1 / seconds

    def figures(self) -> dict[str, float | None]:
        figures = super().figures()
        for program, cost in self.costs.items():
            for name in ProgramCost._fields:
                figures[f"{program}_{name}"] = None if cost is None else getattr(cost, name)
        return figures | {
            "device_bytes": self.device_bytes if all(self.costs.values()) else None,
            "optimal_steps_per_second": self.optimal_steps_per_second,
        }


def compile_phase(phase: Phase, sizes: PhasePlan, target: Target, device: Any) -> TargetPlan:
    """Compiles the programs of a phase for a target and reads their costs.

    Args:
      phase: the phase.
      sizes: its plan, from `needs.sizes`.
      target: the device.
      device: as in `lower`.

    Returns:
      The plan; bytes, FLOPs, launches and times are those of one device of the mesh.
    """
    jitted = phase.jit(target.platform)
    loops = {"interact": 1, "learn": phase.cycles_per_learn(target.platform)}
    costs = dict[str, ProgramCost | None]()
    for name, lowered in lower(phase, target, device).items():
        with status.activity(f"compiling {name} of the {phase.name} phase for {target.name}"):
            program = _compiled(lowered)
        costs[name] = program and compiled.cost(program, platform=target.platform, loop_length=loops[name])
    (_, actor, *_), (state, ring, *_) = jitted.interact_arguments, jitted.learn_arguments
    ring_bytes, state_bytes = (_bytes_on_device(_placed(phase, tree, device)) for tree in (ring, (state, actor)))
    laid_out = dataclasses.replace(sizes, ring_bytes=ring_bytes, state_bytes=state_bytes)
    seeds, steps_per_learn = (
        phase.placement.num_seeds,
        float(phase.updates_per_learn(target.platform) / phase.replay_ratio),
    )
    return TargetPlan(
        **vars(laid_out),
        costs=costs,
        steps_per_call={"interact": seeds * phase.ring_spec.num_envs, "learn": seeds * steps_per_learn},
    )


def lower(phase: Phase, target: Target, device: Any) -> dict[str, jax.stages.Lowered]:
    """Returns `interact` and `learn` of a phase, ready to be compiled for a target.

    Args:
      phase: the phase; its mesh, if it has one, is one of the target's devices.
      target: the device.
      device: from `target.devices`, for which a phase without a mesh is compiled.
    """
    jitted = phase.jit(target.platform)
    arguments = {"interact": jitted.interact_arguments, "learn": jitted.learn_arguments}
    with phase.placement.context():
        return {name: getattr(jitted, name).lower(*_placed(phase, trees, device)) for name, trees in arguments.items()}


def _compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled | None:
    """Returns the compiled program; None if the compiler finds that the device has too little memory for it."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if str(error).startswith("RESOURCE_EXHAUSTED"):
            return None
        raise


def _bytes_on_device(tree: Any) -> int:
    """Returns the bytes that arrays take on a device, which may pad them."""
    program = jax.jit(lambda tree: (), keep_unused=True).lower(tree).compile()
    memory: Any = program.memory_analysis()
    return memory.argument_size_in_bytes


def _placed(phase: Phase, tree: Any, device: Any) -> Any:
    """Returns shapes with their places: those of the mesh, which they have, or the device."""
    if phase.placement.mesh is not None:
        return tree
    place = SingleDeviceSharding(device)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def show(config: RunConfig, target: Target, json_file: pathlib.Path | None = None) -> None:
    """Prints the plan of a run on a target; called inside `target.environment`.

    Args:
      config: the configuration.
      target: the device, or those of the mesh.
      json_file: is written with the same figures.

    Raises:
      ConfigError: the mesh needs more devices than the target has.
      OutOfMemoryError: it needs more memory than the target has.
      OSError: `json_file` cannot be written.
    """
    devices = target.devices(config.mesh.num_devices)
    device = Device(target.name, target.memory_bytes, f"jax {jax.__version__} and {target.compiler}")
    env = registry.make_env(config, training=True)
    try:
        parts = assemble(config, env.action_spec, devices)
    finally:
        env.close()
    plans = needs.sizes(parts)
    if plan_output.fits(plans, device):
        plans = [compile_phase(parts.phase(each.phase), each, target, devices[0]) for each in plans]
    if json_file is not None:
        disk_bytes = disk.needed(parts, [each.phase for each in plans])
        plan_output.write(json_file, config, plans, device, disk_bytes=disk_bytes)
    plan.refuse_if_too_large(config, plans, device)
    plan_output.show([plan_output.phase_table(config, plans, device)])
