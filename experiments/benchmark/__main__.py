"""Times each part of training beside an eager PyTorch twin, the rate of a matrix product, and naive updates.

make bench    # installs PyTorch (requirements-bench.txt) and runs this
python -m experiments.benchmark [--quick] [--synthetic] [--json=FILE]    # nothing else should run on the machine

First it checks that agent and twin agree on losses and gradients for the same weights, batch and noise. Then it times
both in turns. `--quick` leaves out the IMPALA encoder and the naive updates, and takes fewer turns. Naive updates are
those without CPU optimizations. With `--synthetic` both step environments that send random frames, and neither EnvPool
nor a renderer is needed.
"""

import json
import pathlib
import statistics
import subprocess
import sys

import jax
import rich.console
import rich.table
from absl import flags

from experiments.benchmark import agreement
from experiments.benchmark.cases import cases
from experiments.benchmark.jax_side import Environments, JaxSide
from experiments.benchmark.measure import measure
from experiments.benchmark.naive import measure_naive
from experiments.benchmark.synthetic import use_synthetic_suites
from experiments.benchmark.torch_side import TorchSide
from seer_jax import cli, replay
from seer_jax.config import RunConfig
from seer_jax.seer import phases

_NAIVE_CASES = ("rainbow", "curl")  # with IMPALA, gradients of convolutions inside a loop take minutes each
_CHECKED_TRANSITIONS = 8
_TOLERANCE = 1e-3  # of the largest entry of a loss or gradient


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    values = cli.make_flags()
    flags.DEFINE_bool("quick", False, "Fewer turns, no IMPALA encoder, no naive updates.", flag_values=values)
    flags.DEFINE_bool("synthetic", False, "Random frames instead of games and tasks.", flag_values=values)
    flags.DEFINE_string("json", None, "File to write the results to.", flag_values=values)
    return cli.main(argv, __doc__, values, _run)


def _run(values: flags.FlagValues) -> None:
    if values.synthetic:
        use_synthetic_suites()
    _benchmark(quick=values.quick, synthetic=values.synthetic, json_file=values.json)


def _benchmark(*, quick: bool, synthetic: bool, json_file: str | None) -> None:
    cli.use_compilation_cache()
    results: dict[str, dict] = {}
    for name, config in cases(quick=quick).items():
        print(name, flush=True)
        results[name] = _benchmark_case(config, quick=quick)
        if name in _NAIVE_CASES and not quick:
            for update, ms in measure_naive(name, synthetic=synthetic).items():
                results[name][update]["naive_ms"] = ms
        _print_table(name, results[name])
    results["memory"] = _measure_handover_memory(20_000 if quick else 100_000)
    memory = {name: f"{count / 1e6:,.1f} MB" for name, count in results["memory"].items()}
    print(f"memory of a handover: {memory}")
    if json_file is not None:
        pathlib.Path(json_file).write_text(json.dumps(results, indent=2) + "\n")


def _benchmark_case(config: RunConfig, *, quick: bool) -> dict[str, dict]:
    turns, seconds = (3, 1.0) if quick else (5, 3.0)
    envs = Environments(config)
    jax_side = JaxSide(config, envs)
    _check_agreement(jax_side)
    times, gflops = measure(jax_side, TorchSide(jax_side), turns=turns, seconds=seconds)
    envs.vector_env.close()
    return _summary(times, gflops, jax_side)


def _check_agreement(side: JaxSide) -> None:
    """Ends the program unless twin and agent agree on losses and gradients in both phases."""
    for name, phase in side.phases.items():
        state = phase.init_state(jax.random.PRNGKey(2))
        batch = replay.sample(
            phase.ring_spec,
            side.rings[name],
            jax.random.PRNGKey(3),
            batch_size=_CHECKED_TRANSITIONS,
            importance_exponent=1.0,
        )
        found = agreement.differences(side.config, phase, state, batch)
        if max(found.values()) > _TOLERANCE:
            sys.exit(f"benchmark: twin and agent differ in the {name} phase, relative to the largest entry: {found}")
        print(f"  {name}: twin and agent agree within {max(found.values()):.0e}", flush=True)


def _summary(times: dict[str, dict[str, list[float]]], gflops: float, side: JaxSide) -> dict[str, dict]:
    """Returns the medians over turns of one case, as they are written to the JSON file."""
    result = {name: _medians(by_side["ours"], by_side["twin"]) for name, by_side in times.items()}
    for phase, update in ((phases.FULL, "full_update"), (phases.FROZEN, "latent_update")):
        cost = side.programs[phase].update_costs["update"]
        result[update]["mflop"] = cost.flops / 1e6
        result[update]["fraction_of_peak"] = cost.flops / result[update]["ms"] / 1e6 / gflops
        result[f"end_to_end_{phase}"]["steps_per_second"] = 1e3 / result[f"end_to_end_{phase}"]["ms"]
    result["handover_row"]["rows_per_second"] = 1e3 / result["handover_row"]["ms"]
    result["matmul"] = {"gflops": gflops}
    result["seer_speedup"] = {
        "update": result["full_update"]["ms"] / result["latent_update"]["ms"],
        "end_to_end": result["end_to_end_full"]["ms"] / result["end_to_end_frozen"]["ms"],
    }
    return result


def _medians(ours: list[float], twin: list[float]) -> dict:
    return {
        "ms": statistics.median(ours),
        "ms_range": [min(ours), max(ours)],
        "torch_ms": statistics.median(twin),
        "torch_ms_range": [min(twin), max(twin)],
        "speedup": statistics.median(twin) / statistics.median(ours),
    }


def _print_table(name: str, result: dict[str, dict]) -> None:
    table = rich.table.Table(title=name)
    for column in ("", "ours, ms", "PyTorch, ms", "speedup", "of the matrix-product rate", "naive, ms"):
        table.add_column(column, justify="right" if column else "left")
    for label, row in result.items():
        if "torch_ms" not in row:
            continue
        ranges = (
            f"{row[ms]:,.2f} ({row[f'{ms}_range'][0]:,.2f} to {row[f'{ms}_range'][1]:,.2f})"
            for ms in ("ms", "torch_ms")
        )
        fraction = f"{row['fraction_of_peak']:.2f}" if "fraction_of_peak" in row else ""
        naive = f"{row['naive_ms']:,.1f}" if "naive_ms" in row else ""
        table.add_row(label, *ranges, f"{row['speedup']:.2f}", fraction, naive)
    seer = result["seer_speedup"]
    table.caption = (
        f"full against latent: update {seer['update']:.1f}x, agent step {seer['end_to_end']:.2f}x;"
        f" matrix product {result['matmul']['gflops']:.0f} GFLOP/s"
    )
    rich.console.Console(width=140).print(table)


def _measure_handover_memory(rows: int) -> dict[str, int]:
    """Returns what `handover_memory.measure` does, in a new process, whose memory holds nothing else."""
    command = [sys.executable, "-m", "experiments.benchmark.handover_memory", str(rows)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
