"""Trains and shows a figure or table of the paper, or an ablation.

python -m experiments.run NAME --scale=smoke|cpu|paper [--out=DIR] [--workers=N] [--backend=local|ray]

NAME is table1, fig2 to fig9, freeze_time, frozen_layers, latent_dtype or replay_ratio. Finished runs are not trained
again, and interrupted ones are resumed; experiments share their runs. DIR gets NAME.html with the files that
`experiments.report` writes beside a page, the records of the runs in records/NAME/, and the runs in runs/. The page
shows the videos that `seer_jax.evaluate --video` made of the runs.
"""

import importlib
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from experiments.report import page, records
from experiments.runner import pool, spec
from seer_jax import cli
from seer_jax.fields import ConfigError

_NAMES = ("table1", *(f"fig{i}" for i in range(2, 10)), "freeze_time", "frozen_layers", "latent_dtype", "replay_ratio")
EXPERIMENTS: dict[str, spec.Experiment] = {
    name: importlib.import_module(f"experiments.paper.{name}").EXPERIMENT for name in _NAMES
}


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    values = cli.make_flags()
    flags.DEFINE_string("scale", None, "smoke (minutes), cpu (hours on 2 cores) or paper.", flag_values=values)
    flags.DEFINE_string("out", None, "Directory; runs/experiments/SCALE unless given.", flag_values=values)
    pool.define_flags(values)
    return cli.main(argv, __doc__, values, _run, (ConfigError, records.RecordsError), takes_operands=True)


def _run(values: flags.FlagValues, *names: str) -> int:
    if len(names) != 1 or names[0] not in EXPERIMENTS:
        raise cli.UsageError(f"NAME={' '.join(names)} is not an experiment; choose one of {', '.join(EXPERIMENTS)}")
    if values.scale not in spec.SCALES:
        raise cli.UsageError(f"--scale={values.scale} is missing or unknown; choose from {', '.join(spec.SCALES)}")
    name, scale = names[0], values.scale
    out = pathlib.Path(values.out or f"runs/experiments/{scale}")
    cli.use_compilation_cache()
    runs = EXPERIMENTS[name].runs(scale)
    outcomes = pool.train_all(runs, out, workers=values.workers, backend=values.backend)
    finished = [run for run in runs if not outcomes[run.name].code]
    if finished:
        print(f"run: writing {out / name}.html, which takes minutes where encoders are analysed", flush=True)
        write_report(name, scale, finished, out)
        print(f"run: {out / name}.html, with .png, .csv and .md beside it; records in {out / 'records' / name}")
    return pool.print_failures(outcomes)


def write_report(name: str, scale: str, runs: Sequence[spec.Run], out: pathlib.Path) -> None:
    """Writes the page of an experiment and the records of its runs.

    Args:
      name: key of `EXPERIMENTS`.
      scale: of `spec.SCALES`.
      runs: that are finished, at least one.
      out: directory that holds `runs/`.
    """
    experiment, directories = EXPERIMENTS[name], [out / "runs" / run.name for run in runs]
    all_records = [records.read(directory, run.arm) for directory, run in zip(directories, runs, strict=True)]
    for run_records in all_records:
        run_records.save(out / "records" / name / f"{run_records.name}.jsonl")
    page.write(
        out / f"{name}.html",
        all_records,
        title=experiment.title,
        command=f"python -m experiments.run {name} --scale={scale}",
        x=experiment.x,
        comparisons=experiment.comparisons(scale),
        extra_tables=experiment.tables(scale, all_records),
        sections=experiment.sections(scale, directories),
        videos=[video for directory in directories for video in sorted(directory.glob("videos/*.mp4"))],
        note=experiment.note,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
