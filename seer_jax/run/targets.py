"""Devices that plans are made for without having one: what they are, and how XLA is asked to compile for them.

The memory of a TPU is what its compiler lets a program use. The figures of GPUs are those of XLA's own descriptions
(github.com/openxla/xla, xla/backends/gpu/target_config/specs), which were read from the devices.
"""

import contextlib
import dataclasses
import difflib
import functools
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies

from seer_jax.fields import ConfigError

# What the compilers read when they are loaded. A TPU's compiler would otherwise ask the network what machine this is,
# and lock out a process that trains. A GPU's compiler would try kernels on the device that is not there.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_CUDA_FLAG = "--xla_gpu_autotune_level=0"
# What the devices of a mesh are taken from: slices of TPUs, by chips in each dimension, and machines with GPUs, by the
# networks of machines, machines and GPUs of each.
_TPU_GRIDS = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_TPU_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
_GPU_MACHINES = ("1x1x1", "1x1x2", "1x1x4", "1x1x8", "1x2x8", "1x4x8", "1x8x8", "1x16x8", "1x32x8")
# Programs for a device that is not there would be kept in JAX's cache, and could not be read back.
_JAX_SETTINGS = {"jax_platforms": "cpu", "jax_persistent_cache_min_compile_time_secs": math.inf}


@dataclasses.dataclass(frozen=True)
class Target:
    """A device to compile for.

    Attributes:
      name: as in `--target=NAME`.
      platform: `tpu` or `cuda`.
      memory_bytes: device memory.
      shapes: of what has such devices, by the number of devices, which is the product of the sizes in a shape.
      topology: keyword arguments of `topologies.get_topology_desc`, in which `{}` stands for a shape.
    """

    name: str
    platform: str
    memory_bytes: int
    shapes: tuple[str, ...]
    topology: dict[str, str]

    @property
    def missing(self) -> str | None:
        """The command that installs its compiler; None if it is installed."""
        if self.platform == "tpu":
            return None if _installed("libtpu") else f"pip install 'jax[tpu]=={jax.__version__}'"
        found = any(_installed(f"jax_plugins.xla_cuda{version}") for version in (12, 13))
        return None if found else f"pip install 'jax[cuda12]=={jax.__version__}'"

    @property
    def compiler(self) -> str:
        """Name and version of the package with its compiler."""
        names = ("libtpu",) if self.platform == "tpu" else ("jax-cuda13-plugin", "jax-cuda12-plugin")
        for name in names:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                return f"{name} {importlib.metadata.version(name)}"
        return "unknown"

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        """Inside, the environment is that of the compiler, and programs can be compiled for the target.

        JAX leaves accelerators of this machine alone, unless it uses them already.
        """
        xla_flags = f"{os.environ.get('XLA_FLAGS', '')} {_CUDA_FLAG}".strip()
        variables = _TPU_ENVIRONMENT if self.platform == "tpu" else {"XLA_FLAGS": xla_flags}
        with _environment(variables), _jax_settings(_JAX_SETTINGS):
            yield

    def devices(self, count: int = 1) -> list[Any]:
        """Returns such devices, to lower programs for; called inside `environment`.

        Args:
          count: of devices.

        Raises:
          ConfigError: there are not so many, or the compiler cannot be used.
        """
        shape = next((shape for shape in self.shapes if _size(shape) >= count), None)
        if shape is None:
            raise ConfigError(
                f"mesh.seed and mesh.data need {count} devices, and --target={self.name} plans for at most"
                f" {_size(self.shapes[-1])}; lower one of them"
            )
        topology = {name: value.replace("{}", shape) for name, value in self.topology.items()}
        try:
            return list(topologies.get_topology_desc(platform=self.platform, **topology).devices)[:count]
        except (NotImplementedError, RuntimeError) as error:
            message = f"--target={self.name}: {self.compiler} cannot compile for it here: {error}"
            raise ConfigError(f"{message}; install the version that goes with jax {jax.__version__}") from None


def _size(shape: str) -> int:
    return math.prod(map(int, shape.split("x")))


def _installed(module: str) -> bool:
    package, _, _ = module.rpartition(".")
    return (not package or _installed(package)) and importlib.util.find_spec(module) is not None


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _jax_settings(settings: dict[str, Any]) -> Iterator[None]:
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _tpu(name: str, shapes: tuple[str, ...], memory_gib: float, **topology: str) -> Target:
    version = name.removeprefix("tpu-")
    return Target(name, "tpu", int(memory_gib * 2**30), shapes, {"topology_name": f"{version}:{{}}", **topology})


def _gpu(
    name: str,
    model: str,
    *,
    compute_capability: tuple[int, int],
    cores: int,
    fpus_per_core: int,
    clock_ghz: float,
    memory_bytes: int,
    bandwidth: int,
    l2_bytes: int,
    shared_bytes_per_core: int,
    shared_bytes_per_block: int,
    threads_per_core: int,
) -> Target:
    """Describes a GPU in the text form of XLA's message `GpuTargetConfigProto`; `bandwidth` is in bytes per second."""
    major, minor = compute_capability
    extension = "ACCELERATED_FEATURES" if major in (9, 10) else "NONE"
    description = f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {threads_per_core}
          shared_memory_per_block: 49152 shared_memory_per_block_optin: {shared_bytes_per_block}
          shared_memory_per_core: {shared_bytes_per_core} registers_per_core_limit: 65536
          registers_per_block_limit: 65536 core_count: {cores} fpus_per_core: {fpus_per_core}
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          memory_bandwidth: {bandwidth} l2_cache_size: {l2_bytes} clock_rate_ghz: {clock_ghz}
          device_memory_size: {memory_bytes}
          cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
        runtime_version {{ major: 12 minor: 9 patch: 0 }}
        device_description_str: "{model}"
    """
    return Target(name, "cuda", memory_bytes, _GPU_MACHINES, {"topology": "{}", "target_config": description})


_hopper = functools.partial(
    _gpu,
    compute_capability=(9, 0),
    cores=132,
    fpus_per_core=128,
    clock_ghz=1.98,
    l2_bytes=52_428_800,
    shared_bytes_per_core=233_472,
    shared_bytes_per_block=232_448,
    threads_per_core=2048,
)
_ampere = functools.partial(
    _gpu,
    compute_capability=(8, 0),
    cores=108,
    fpus_per_core=64,
    clock_ghz=1.41,
    l2_bytes=41_943_040,
    shared_bytes_per_core=167_936,
    shared_bytes_per_block=166_912,
    threads_per_core=2048,
)
TARGETS = {
    target.name: target
    for target in (
        _tpu("tpu-v4", _TPU_CUBES, 30.75, chip_config_name="megacore"),  # both cores of a chip are one device
        _tpu("tpu-v5e", _TPU_GRIDS, 15.75),
        _tpu("tpu-v5p", _TPU_CUBES, 95.74),
        _tpu("tpu-v6e", _TPU_GRIDS, 31.25),
        _ampere("a100-40gb", "NVIDIA A100-SXM4-40GB", memory_bytes=42_331_013_120, bandwidth=1_555_200_000_000),
        _ampere("a100", "NVIDIA A100-SXM4-80GB", memory_bytes=85_100_068_864, bandwidth=2_039_040_000_000),
        _hopper("h100", "NVIDIA H100 80GB HBM3", memory_bytes=84_942_979_072, bandwidth=3_352_320_000_000),
        _hopper("h200", "NVIDIA H200 141GB HBM3e", memory_bytes=151_397_597_184, bandwidth=4_800_000_000_000),
    )
}


def find(name: str) -> Target:
    """Returns the target of a name.

    Raises:
      ConfigError: there is none of this name, or its compiler is not installed.
    """
    if name not in TARGETS:
        near = difflib.get_close_matches(name.lower(), TARGETS)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(TARGETS)}"
        raise ConfigError(f"--target={name} is unknown; {hint}")
    target = TARGETS[name]
    if target.missing is not None:
        raise ConfigError(f"--target={name} needs the compiler of that device; install it with: {target.missing}")
    return target
