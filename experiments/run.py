"""A figure or table of the paper as one command.

python -m experiments.run NAME --scale=smoke|cpu|paper [--out=DIR] [--workers=N] [--backend=local|ray]

NAME is table1, fig2 to fig9, freeze_time, frozen_layers or latent_dtype. Runs that are done are not run again, those
that were cut off go on; the same runs serve several figures. DIR gets NAME.html with what `experiments.report` puts
beside a page, records/NAME/ and runs/. Videos that `seer_jax.evaluate --video` made of the runs are on the page.
"""

import importlib
import pathlib
import sys

from absl import flags

from experiments import pool, records, report, spec
from seer_jax import cli
from seer_jax.run import resolve as config_lib

_FIGURES = ("table1", *(f"fig{i}" for i in range(2, 10)), "freeze_time", "frozen_layers", "latent_dtype")
EXPERIMENTS = {name: importlib.import_module(f"experiments.paper.{name}").EXPERIMENT for name in _FIGURES}


def main(argv: list[str]) -> int:
    values = cli.make_flags()
    flags.DEFINE_string("scale", None, "smoke (minutes), cpu (hours on 2 cores) or paper.", flag_values=values)
    flags.DEFINE_string("out", None, "Directory; runs/experiments/SCALE unless given.", flag_values=values)
    pool.define_flags(values)
    return cli.main(argv, __doc__, values, _run, (config_lib.ConfigError,), takes_operands=True)


def _run(values: flags.FlagValues, *names: str) -> int:
    if len(names) != 1 or names[0] not in EXPERIMENTS:
        raise cli.UsageError(f"NAME={' '.join(names)} is no experiment; choose one of {', '.join(EXPERIMENTS)}")
    name = names[0]
    if values.scale not in spec.SCALES:
        raise cli.UsageError(f"--scale={values.scale} is missing or unknown; choose from {', '.join(spec.SCALES)}")
    experiment = EXPERIMENTS[name]
    out = pathlib.Path(values.out or f"runs/experiments/{values.scale}")
    cli.use_compilation_cache()
    runs = experiment.runs(values.scale)
    outcomes = pool.train_all(runs, out, workers=values.workers, backend=values.backend)
    done = [records.read(out / "runs" / run.name, run.arm) for run in runs if not outcomes[run.name].code]
    for run in done:
        run.keep(out / "records" / name / f"{run.name}.jsonl")
    if done:
        page, directories = out / f"{name}.html", [out / "runs" / run.name for run in done]
        report.write(
            page,
            done,
            title=experiment.title,
            command=f"python -m experiments.run {name} --scale={values.scale}",
            x=experiment.x,
            comparisons=experiment.comparisons(values.scale),
            sections=experiment.sections(values.scale, directories),
            videos=[video for directory in directories for video in sorted(directory.glob("videos/*.mp4"))],
            note=experiment.note,
        )
        print(f"run: {page}, with .png, .csv and .md beside it; records of the runs in {out / 'records' / name}")
    return pool.tell_failures(outcomes)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
