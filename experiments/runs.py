"""What the experiments share: runs that are made once, their records, and tables of them."""

import json
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from seer_jax import train

_KEPT = ("train", "eval", "freeze", "end")


def run_missing(results: pathlib.Path, configs: dict[str, ConfigDict]) -> None:
    """Trains, one after the other, what `results` lacks, and keeps each run's records as `NAME.jsonl`."""
    for name, config in configs.items():
        if not (results / f"{name}.jsonl").exists():
            with tempfile.TemporaryDirectory() as directory:  # anew after an interruption
                run_dir = pathlib.Path(directory) / "run"
                train.run(config, run_dir)
                keep(run_dir, results, name)


def keep(run_dir: pathlib.Path, results: pathlib.Path, name: str) -> None:
    """Copies a run's records to `NAME.jsonl`, without the many of single episodes."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines if json.loads(line)["kind"] in _KEPT))


def records(results: pathlib.Path, name: str, kind: str) -> list[dict]:
    """Returns the records of one kind of a run that was kept; ends the program if there is no such run."""
    path = results / f"{name}.jsonl"
    if not path.exists():
        sys.exit(f"{path.name} is missing in {results}; make it with the command run or speed")
    lines = path.read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def print_evaluations(
    results: pathlib.Path, rows: dict[str, str], *, columns: Sequence[int], fixed: dict[str, float]
) -> None:
    """Prints mean evaluation returns by agent steps, and what each run cost.

    Args:
      results: directory of the runs.
      rows: name of a run by its label.
      columns: agent steps to show evaluations of.
      fixed: returns of policies that look at nothing, by name.
    """
    print("| agent steps | " + " | ".join(f"{step:,}" for step in columns) + " | TFLOP |")
    print("|---|" + "---|" * (len(columns) + 1))
    for label, name in rows.items():
        evaluations = records(results, name, "eval")
        cells = [f"{e['eval_return_mean']:,.0f}" if (e := _at(evaluations, step)) else "" for step in columns]
        flops = records(results, name, "end")[0]["flops_total"] / 1e12
        print(f"| {label} | " + " | ".join(cells) + f" | {flops:.1f} |")
    for label, mean in fixed.items():
        print(f"| {label} | " + " | ".join([f"{mean:,.1f}"] * len(columns)) + " | |")


def _at(evaluations: list[dict], step: int) -> dict | None:
    """Returns the first evaluation at `step`, which several environments may overshoot by less than a hundredth."""
    return next((e for e in evaluations if step <= e["env_steps"] < 1.01 * step), None)


def print_phases(title: str, end: dict, speed: dict) -> None:
    """Prints what the two phases of a run cost.

    Args:
      title: of the table.
      end: final record of the run.
      speed: final record of a run whose speed was measured with nothing else running.
    """
    print(f"\n| {title} | full phase (frames) | frozen phase (latents) | ratio |\n|---|---|---|---|")
    for label, record, name, unit in (
        ("agent steps/s", speed, "steps_per_second", 1),
        ("MFLOP per agent step (XLA's count)", end, "flops_per_step", 1e6),
        ("replay rows allocated", end, "replay_capacity", 1),
        ("replay MB", end, "replay_bytes", 1e6),
    ):
        full, latent = (record[f"{phase}_{name}"] / unit for phase in ("full", "frozen"))
        print(f"| {label} | {full:,.0f} | {latent:,.0f} | {latent / full:.2f} |")


def print_bytes(frame: int, latent: int) -> None:
    """Prints the last row of `print_phases`: bytes of a stored observation before and after the freeze."""
    print(f"| bytes of a stored observation | {frame:,} | {latent:,} | {latent / frame:.2f} |")


def main(doc: str, commands: dict[str, Callable[[], None]], argv: list[str]) -> int:
    """Runs the command that `argv` names, or prints the experiment's own account of them and returns 2."""
    if len(argv) != 2 or argv[1] not in commands:
        print(doc, file=sys.stderr)
        return 2
    commands[argv[1]]()
    return 0
