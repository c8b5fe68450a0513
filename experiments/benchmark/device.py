"""Times both agents with several seeds in one program on JAX's default device, beside the PyTorch twin of one seed.

python -m experiments.benchmark.device [--seeds=1,2,4,8,16] [--quick] [--json=FILE]

Environments send random frames: neither EnvPool nor the network is needed. PyTorch runs on the GPU if JAX does, else on
the CPU: eager, compiled by `torch.compile`, and on a GPU from CUDA graphs. Without PyTorch the twin is left out. The
settings are the paper's, with rings of 2,000 rows. After seven minutes nothing is begun any more, and is written as
`not measured`. `--quick` measures for a tenth of the time.
"""

import functools
import importlib.util
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import flags

from experiments.benchmark.cases import cases
from experiments.benchmark.estimates import seed_counts
from experiments.benchmark.jax_side import AgentArrays, Environments
from experiments.benchmark.seeds_side import SeedsSide
from experiments.benchmark.synthetic import use_synthetic_suites
from seer_jax import cli, files
from seer_jax.config import RunConfig
from seer_jax.run import plan_output
from seer_jax.seer.phases import FROZEN, FULL

_SECONDS = 1.0  # of each measurement
_LIMIT_SECONDS = 420.0  # after which none begins
_AGENTS = ("rainbow", "curl")

Record = dict[str, Any]
Measurement = tuple[Record, Callable[[], Record]]  # what is measured, and the call that does it


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    values = cli.make_flags()
    flags.DEFINE_list("seeds", ["1", "2", "4", "8", "16"], "Numbers of seeds in one program.", flag_values=values)
    flags.DEFINE_bool("quick", False, "Measure for a tenth of the time.", flag_values=values)
    flags.DEFINE_string("json", None, "File to write all figures to.", flag_values=values)
    return cli.main(argv, __doc__, values, _run)


def _run(values: flags.FlagValues) -> None:
    began, seeds, seconds = time.perf_counter(), seed_counts(values), _SECONDS / 10 if values.quick else _SECONDS
    json_file = None if values.json is None else pathlib.Path(values.json)
    if json_file is not None:
        plan_output.check_file(json_file)
    use_synthetic_suites()
    cli.use_compilation_cache()
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), jax {jax.__version__}", flush=True)
    records: list[Record] = []
    for what, measure in [*_of_agent(seeds, seconds), *_of_twin(seconds)]:
        in_time = time.perf_counter() < began + _LIMIT_SECONDS
        records.append({"device": device.device_kind} | what | (measure() if in_time else {"measured": False}))
        print(_line(records[-1]), flush=True)
        if json_file is not None:
            files.write_file(json_file, json.dumps(records, indent=1).encode() + b"\n")


def make_config(agent: str, num_seeds: int) -> RunConfig:
    """Returns the configuration of an agent with so many seeds."""
    return cases(quick=True, num_seeds=num_seeds)[agent]


def _of_agent(seeds: list[int], seconds: float) -> Iterator[Measurement]:
    for num_seeds in seeds:
        for agent in _AGENTS:
            for phase in (FULL, FROZEN):
                what = {"agent": agent, "phase": phase, "side": "seer_jax", "num_seeds": num_seeds}
                yield what, functools.partial(_measure_agent, agent, phase, num_seeds, seconds)


def _measure_agent(agent: str, phase: str, num_seeds: int, seconds: float) -> Record:
    side = SeedsSide(make_config(agent, num_seeds), phase)
    times = statistics.median(side.time_learn(seconds)), side.time_steps(seconds)
    return _record(num_seeds, *times) | {
        "device_bytes": side.device_bytes,
        "temporary_bytes": side.temporary_bytes,
    }


def _of_twin(seconds: float) -> Iterator[Measurement]:
    if importlib.util.find_spec("torch") is None:
        return
    from experiments.benchmark.torch_side import modes

    for agent in _AGENTS:
        for mode in modes(jax.default_backend()):
            for phase in (FULL, FROZEN):
                what = {"agent": agent, "phase": phase, "side": f"PyTorch, {mode}", "num_seeds": 1}
                yield what, functools.partial(_measure_twin, agent, phase, mode, seconds)


def _measure_twin(agent: str, phase: str, mode: str, seconds: float) -> Record:
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.benchmark.torch_side import TorchSide

    config = make_config(agent, 1)
    device = torch.device("cuda" if jax.default_backend() == "gpu" else "cpu")
    side = TorchSide(AgentArrays(config, Environments(config)), device, mode)
    (step_ms,) = side.time_steps(phase, seconds)
    return _record(1, statistics.median(side.time_learn(phase, seconds)), step_ms)


def _record(num_seeds: int, update_ms: float, step_ms: float) -> Record:
    """Returns milliseconds of an update and of an agent step of all seeds, and agent steps per second of all seeds."""
    return {
        "measured": True,
        "update_ms": update_ms,
        "step_ms": step_ms,
        "steps_per_second": 1e3 * num_seeds / step_ms,
    }


def _line(record: Record) -> str:
    what = f"{record['agent']:8} {record['phase']:7} {record['side']:20} {record['num_seeds']:3} seeds: "
    if not record["measured"]:
        return what + "not measured"
    memory = [
        f"{name} {record[key] / 1e6:,.1f} MB"
        for name, key in (("device memory", "device_bytes"), ("temporary memory", "temporary_bytes"))
        if record.get(key) is not None
    ]
    times = f"update {record['update_ms']:.3f} ms, agent step {record['step_ms']:.3f} ms"
    return what + ", ".join([times, f"{record['steps_per_second']:,.1f} agent steps/s of all seeds", *memory])


if __name__ == "__main__":
    sys.exit(main(["device", *sys.argv[1:]]))
