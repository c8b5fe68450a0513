"""Plans to read: tables for people, and a file with the same figures for programs."""

import dataclasses
import datetime
import json
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import rich.console
import rich.table

from seer_jax import files
from seer_jax.config import LATENT_DTYPES, RunConfig
from seer_jax.fields import ConfigError
from seer_jax.run.needs import PhasePlan
from seer_jax.seer import capacity


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _mb(value: float) -> str:
    return f"{value / 1e6:,.1f}"


def _millions(value: float) -> str:
    return f"{value / 1e6:,.0f}"


def _microseconds(value: float) -> str:
    return f"{value * 1e6:,.1f}"


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def gb(count: int) -> str:
    """Returns a number of bytes to print."""
    return f"{count / 1e9:,.1f} GB"


# The figures of a phase, by their names in the file: what the table calls them, and how it shows them.
FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "env_steps": ("agent steps", _count),
    "replay_ratio": ("updates per agent step", "{:g}".format),
    "replay_rows": ("replay rows", _count),
    "observation_bytes": ("bytes of a stored observation", _count),
    "replay_bytes": ("replay MB", _mb),
    "state_bytes": ("state MB", _mb),
    "temporary_bytes": ("temporary memory of a program, MB", _mb),
    **{
        f"{program}_{name}": (f"{program}: {label}", show)
        for program in ("interact", "learn")
        for name, label, show in (
            ("argument_bytes", "arguments, MB", _mb),
            ("temporary_bytes", "temporary memory, MB", _mb),
            ("moved_bytes", "moved bytes, MB", _mb),
            ("flops", "MFLOP", _millions),
            ("launches", "launched kernels and copies", _count),
            ("optimal_seconds", "optimal time, microseconds", _microseconds),
        )
    },
    "device_bytes": ("device memory at its peak, MB", _mb),
    "flops_per_step": ("MFLOP per agent step (XLA)", _millions),
    "macs_per_step": ("M multiply-accumulates per agent step (paper)", _millions),
    "steps_per_second": ("agent steps/s, measured", _count),
    "seconds": ("time, without evaluation", _duration),
    "optimal_steps_per_second": ("agent steps/s in the optimal time, at most", _count),
}


# Figures of all seeds together, or of those on one device; the others are those of one seed.
_OF_ALL_SEEDS = ("steps_per_second", "optimal_steps_per_second", "seconds")


@dataclasses.dataclass(frozen=True)
class Device:
    """The device that a plan is for.

    Attributes:
      name: to print.
      memory_bytes: its memory.
      compiler: packages that compiled for it, with their versions.
    """

    name: str
    memory_bytes: int
    compiler: str


def fits(plans: Sequence[PhasePlan], device: Device) -> bool:
    """Returns whether a device has the memory for all phases, as far as they are known."""
    return all(plan.fits(device.memory_bytes) for plan in plans)


def phase_table(config: RunConfig, plans: Sequence[PhasePlan], device: Device) -> rich.table.Table:
    """Returns a table of the figures of each phase; figures that no phase has are left out."""
    several, num_devices = config.num_seeds > 1, config.mesh.num_devices
    seeds = f"{config.num_seeds} seeds of " if several else ""
    devices = f"{num_devices} devices, each {device.name}" if num_devices > 1 else device.name
    table = rich.table.Table(title=f"{config.env.task}, {seeds}{config.total_steps:,} agent steps, {devices}")
    table.add_column("")
    for plan in plans:
        table.add_column(f"{plan.phase} phase", justify="right")
    figures = [plan.figures() for plan in plans]
    for name, (label, show) in FIGURES.items():
        if any(name in known for known in figures):
            values = [known.get(name) for known in figures]
            label = f"{label}, of all seeds" if several and name in _OF_ALL_SEEDS else label
            table.add_row(label, *("unknown" if value is None else show(value) for value in values))
    enough = "enough" if fits(plans, device) else "too little"
    table.caption = f"device memory: {gb(device.memory_bytes)}, {enough}; compiled by {device.compiler}"
    if several or num_devices > 1:
        table.caption += "; memory and costs of a program are those of one device"
    if several:
        table.caption += f", with {config.num_seeds // config.mesh.seed} of the seeds"
    return table


def latents(config: RunConfig) -> dict[str, dict[str, float]]:
    """Returns what latents of each dtype would take: bytes of a row, and rows in the bytes of the frames."""
    rows = {}
    for dtype in LATENT_DTYPES:
        other = dataclasses.replace(config, replay=dataclasses.replace(config.replay, latent_dtype=dtype))
        _, latent = capacity.bytes_per_row(other)
        rows[dtype] = {"row_bytes": latent, "rows_in_same_bytes": capacity.capacity_in_same_bytes(other)}
    return rows


def dtype_table(config: RunConfig) -> rich.table.Table:
    """Returns a table of `latents`."""
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
    for dtype, row in latents(config).items():
        latent = row["row_bytes"]
        table.add_row(dtype, f"{latent:,}", f"{latent / frame:.2f}", f"{row['rows_in_same_bytes']:,}")
        larger += [dtype] if latent > frame else []
    if larger:
        table.caption = (
            f"{' and '.join(larger)}: latents are larger than frames, so that the ring cannot grow, and needs more"
            " memory than the frames did"
        )
    return table


def show(tables: Sequence[rich.table.Table], *, stderr: bool = False) -> None:
    """Prints tables."""
    console = rich.console.Console(stderr=stderr)
    for table in tables:
        console.print(table)


def check_file(path: pathlib.Path) -> None:
    """Raises ConfigError if a plan cannot be written to `path`."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"--json={path} is not a file; name a file that exists, or one to make")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"--json={path} cannot be written ({error.strerror}); name a file elsewhere") from None


def write(
    path: pathlib.Path,
    config: RunConfig,
    plans: Sequence[PhasePlan],
    device: Device,
    *,
    disk_bytes: dict[str, int],
) -> None:
    """Writes a plan as JSON, in one step; what is unknown is null.

    Raises:
      OSError: it cannot be written.
    """
    record = {
        "task": config.env.task,
        "total_steps": config.total_steps,
        "num_seeds": config.num_seeds,
        "device": device.name,
        "num_devices": config.mesh.num_devices,
        "device_memory_bytes": device.memory_bytes,
        "compiler": device.compiler,
        "fits": fits(plans, device),
        "phases": {plan.phase: plan.figures() for plan in plans},
        "latents": latents(config) if config.seer.enabled else {},
        "disk_bytes": disk_bytes,
    }
    files.write_file(path, json.dumps(record, indent=2).encode() + b"\n")
