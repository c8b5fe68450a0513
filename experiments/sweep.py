"""Trains one configuration for every combination of the values of some fields, with several seeds.

python -m experiments.sweep --config=configs/rainbow_atari.py:quick --grid config.seer.freeze_step=4000,8000 --seeds=3
    [--config.FIELD=VALUE] [--grid config.OTHER=A,B] [--out=DIR] [--workers=N] [--backend=local|ray]

The same command resumes interrupted runs and does not train finished ones again.
"""

import itertools
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import rich.console
import rich.table
from absl import flags
from ml_collections import config_flags

from experiments.report import records
from experiments.runner import pool
from experiments.runner.process import Outcome
from experiments.runner.spec import Run
from seer_jax import cli
from seer_jax.fields import ConfigError
from seer_jax.run.records import Record

_PREFIX = "config."


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    values = cli.make_flags()
    cli.define_config(values, argv, "Configuration of the runs.")
    flags.DEFINE_multi_string("grid", [], "config.FIELD=VALUE,VALUE,...; may be repeated.", flag_values=values)
    flags.DEFINE_integer("seeds", 1, "Seeds of each combination, from config.seed on.", 1, 10_000, flag_values=values)
    flags.DEFINE_string("out", "runs/sweep", "Directory for all runs.", flag_values=values)
    pool.define_flags(values)
    return cli.main(argv, __doc__, values, _sweep, (ConfigError, records.RecordsError))


def _sweep(values: flags.FlagValues) -> int:
    if values.config is None:
        raise cli.UsageError("--config=FILE is missing, for example --config=configs/rainbow_atari.py:quick")
    first_seed: Any = cli.loaded(values.config).seed
    config_file = config_flags.get_config_filename(values["config"])
    fixed = config_flags.get_override_values(values["config"])
    grid = parse_grid(values.grid)
    if twice := fixed.keys() & grid:
        raise cli.UsageError(f"{min(twice)} is set by --config.{min(twice)} and by --grid; leave one out")
    runs = make_runs(config_file, fixed, grid, range(first_seed, first_seed + values.seeds))
    for run in runs:
        run.load()  # refuses an invalid configuration before any run starts
    out = pathlib.Path(values.out)
    cli.use_compilation_cache()
    outcomes = pool.train_all(runs, out, workers=values.workers, backend=values.backend)
    rich.console.Console().print(_table(runs, list(grid), out, outcomes))
    return pool.print_failures(outcomes)


def parse_grid(texts: Iterable[str]) -> dict[str, list[str]]:
    """Returns the values of each field, from texts `config.FIELD=VALUE,VALUE,...`.

    Raises:
      UsageError: a text has another form, or names a field or a value twice.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        field, separator, listed = text.partition("=")
        values = [value.strip() for value in listed.split(",")]
        if not field.startswith(_PREFIX) or not separator or not all(values):
            raise cli.UsageError(f"--grid {text!r} does not have the form config.FIELD=VALUE,VALUE,...")
        if field == f"{_PREFIX}seed":
            raise cli.UsageError(
                "--grid config.seed: set the number of seeds with --seeds=N, the first with --config.seed=K"
            )
        if field.removeprefix(_PREFIX) in grid:
            raise cli.UsageError(f"--grid names {field} twice")
        if len(set(values)) < len(values):
            raise cli.UsageError(f"--grid {text!r} names a value twice")
        grid[field.removeprefix(_PREFIX)] = values
    return grid


def make_runs(
    config_file: str, fixed: Mapping[str, Any], grid: Mapping[str, list[str]], seeds: Iterable[int]
) -> list[Run]:
    """Returns a run for each combination of the grid's values and each seed.

    Args:
      config_file: with `:PRESET`.
      fixed: overrides of all runs, by dotted name.
      grid: values by dotted name.
      seeds: random seeds of each combination.
    """
    runs = []
    for chosen in itertools.product(*grid.values()):
        point = dict(zip(grid, chosen, strict=True))
        arm = ", ".join(f"{field}={value}" for field, value in point.items()) or "as configured"
        for seed in seeds:
            name = "-".join([*(f"{field}={value}" for field, value in point.items()), f"s{seed}"]).replace("/", "_")
            runs.append(Run(name, arm, config_file, {**fixed, **point, "seed": seed}))
    return runs


def _table(
    runs: Sequence[Run], fields: Sequence[str], out: pathlib.Path, outcomes: Mapping[str, Outcome]
) -> rich.table.Table:
    """Returns a table with a row for each combination of the values of `fields`."""
    caption = "TFLOP is XLA's count, TMAC the paper's, in multiply-accumulates; steps/s are of the last phase."
    table = rich.table.Table(title=f"last evaluation of the runs in {out}", caption=caption)
    for column in (*fields, "runs", "return", "TFLOP", "TMAC", "steps/s"):
        table.add_column(column.rpartition(".")[2], justify="right")
    for arm in dict.fromkeys(run.arm for run in runs):
        members = [run for run in runs if run.arm == arm]
        all_records = [records.read(out / "runs" / run.name) for run in members if outcomes[run.name].code == 0]
        values = [members[0].overrides[field] for field in fields]
        table.add_row(*values, *_cells([each.end for each in all_records if each.end is not None]))
    return table


def _cells(ends: Sequence[Record]) -> list[str]:
    """Returns number of runs, return, TFLOP, TMAC and steps per second of the finished runs of a combination."""
    if not ends:
        return ["0", "-", "-", "-", "-"]
    returns = [end["eval_return_mean"] for end in ends if end["eval_return_mean"] is not None]
    spread = f" ± {np.std(returns, ddof=1):,.1f}" if len(returns) > 1 else ""
    score = f"{np.mean(returns):,.1f}{spread}" if returns else "-"
    totals = [f"{np.mean([end[name] for end in ends]) / 1e12:,.2f}" for name in ("flops_total", "macs_total")]
    speed = np.mean([end[f"{end['phase']}_steps_per_second"] for end in ends])
    return [str(len(ends)), score, *totals, f"{speed:,.0f}"]


if __name__ == "__main__":
    sys.exit(main(sys.argv))
