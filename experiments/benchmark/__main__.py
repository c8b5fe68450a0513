"""What each part costs, beside an eager PyTorch twin, the rate of a matrix product, and the same without our habits.

make bench                                               # sets up PyTorch (requirements-bench.txt) and runs this
python -m experiments.benchmark [--quick] [--json=FILE]  # wants a machine with nothing else to do

First twin and agent must agree on losses and gradients for the same weights, batch and noise; then everything is timed
in turns, so that what disturbs one disturbs all. Quick leaves out the IMPALA encoder and takes fewer turns.
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
from experiments.benchmark.bench import Bench, boundary_shape, measure
from experiments.benchmark.cases import cases
from experiments.benchmark.naive import measure_naive
from seer_jax import cli, replay
from seer_jax.seer import phases

_NAIVE = ("rainbow", "curl")  # with IMPALA, gradients of convolutions in a loop take minutes each
_CHECKED = 8  # transitions that twin and agent are compared on
_TOLERANCE = 1e-3  # of the largest entry of a loss or gradient


def check(bench: Bench) -> None:
    """Ends the program unless twin and agent agree on losses and gradients, in both phases."""
    for phase in (phases.FULL, phases.FROZEN):
        state = jax.jit(bench.parts.agent.init)(jax.random.PRNGKey(2))
        state = state if phase == phases.FULL else bench.parts.agent.freeze(state)
        spec = bench.parts.spec(phase)
        batch = replay.sample(
            spec, bench.rings[phase], jax.random.PRNGKey(3), batch_size=_CHECKED, importance_exponent=1.0
        )
        found = agreement.differences(
            bench.config,
            bench.parts.agent,
            state,
            batch,
            boundary_shape(bench.config),
            on_latents=phase == phases.FROZEN,
        )
        if max(found.values()) > _TOLERANCE:
            sys.exit(f"benchmark: the twin does not compute what the agent does in the {phase} phase: {found}")
        print(f"  {phase}: twin and agent agree within {max(found.values()):.0e}", flush=True)


def measure_handover(rows: int) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.measure_handover", str(rows)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def summary(times: dict[str, dict[str, list[float]]], matmul_gflops: float, bench: Bench) -> dict[str, dict]:
    """Returns the medians of one setting, as they go into the JSON file."""
    result = {}
    for name, sides in times.items():
        ours, twin = (statistics.median(sides[side]) for side in ("ours", "twin"))
        result[name] = {
            "ms": ours,
            "ms_range": [min(sides["ours"]), max(sides["ours"])],
            "torch_ms": twin,
            "torch_ms_range": [min(sides["twin"]), max(sides["twin"])],
            "speedup": twin / ours,
        }
    for phase, update in ((phases.FULL, "full_update"), (phases.FROZEN, "latent_update")):
        cost = bench.programs[phase].learn_costs["update"] * (1 / bench.parts.updates_per_learn)
        result[update]["mflop"] = cost.flops / 1e6
        result[update]["fraction_of_peak"] = cost.flops / result[update]["ms"] / 1e6 / matmul_gflops
        result[f"end_to_end_{phase}"]["steps_per_second"] = 1e3 / result[f"end_to_end_{phase}"]["ms"]
    result["handover_row"]["rows_per_second"] = 1e3 / result["handover_row"]["ms"]
    result["matmul"] = {"gflops": matmul_gflops}
    result["seer_speedup"] = {
        "update": result["full_update"]["ms"] / result["latent_update"]["ms"],
        "end_to_end": result["end_to_end_full"]["ms"] / result["end_to_end_frozen"]["ms"],
    }
    return result


def print_table(name: str, result: dict[str, dict]) -> None:
    table = rich.table.Table(title=name)
    for column in ("", "ours, ms", "PyTorch, ms", "speedup", "of the matrix-product rate", "without our habits, ms"):
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


def run(*, quick: bool, json_file: str | None) -> None:
    cli.use_compilation_cache()
    results: dict[str, dict] = {}
    for name, config in cases(quick=quick).items():
        print(name, flush=True)
        bench = Bench(config)
        check(bench)
        turns, seconds = (3, 1.0) if quick else (5, 3.0)
        results[name] = summary(*measure(bench, turns=turns, seconds=seconds), bench)
        bench.env.close()
        del bench
        if name in _NAIVE and not quick:
            for update, ms in measure_naive(name).items():
                results[name][update]["naive_ms"] = ms
        print_table(name, results[name])
    results["memory"] = measure_handover(20_000 if quick else 100_000)
    memory = {name: f"{count / 1e6:,.1f} MB" for name, count in results["memory"].items()}
    print(f"memory of a handover: {memory}")
    if json_file is not None:
        pathlib.Path(json_file).write_text(json.dumps(results, indent=2) + "\n")


def main(argv: list[str]) -> int:
    values = cli.make_flags()
    flags.DEFINE_bool("quick", False, "Fewer turns, no IMPALA encoder.", flag_values=values)
    flags.DEFINE_string("json", None, "File for the figures.", flag_values=values)
    return cli.main(argv, __doc__, values, lambda values: run(quick=values.quick, json_file=values.json))


if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
