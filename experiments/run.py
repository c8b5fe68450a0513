"""A figure or table of the paper as one command.

python -m experiments.run NAME --scale=smoke|cpu|paper [--out=DIR] [--workers=N] [--backend=local|ray]

Runs that are done are not run again, those that were cut off go on; the same runs serve several figures.
"""

import pathlib
import sys

from absl import flags

from experiments import pool, spec
from experiments.paper import fig3
from seer_jax import cli
from seer_jax import config as config_lib

EXPERIMENTS = {"fig3": fig3.EXPERIMENT}


def main(argv: list[str]) -> int:
    values = cli.make_flags()
    flags.DEFINE_string("scale", None, "smoke (minutes), cpu (hours on 2 cores) or paper.", flag_values=values)
    flags.DEFINE_string("out", None, "Directory; runs/experiments/SCALE unless given.", flag_values=values)
    pool.define_flags(values)
    name, rest = ("", argv[1:]) if len(argv) < 2 or argv[1].startswith("-") else (argv[1], argv[2:])
    return cli.main([argv[0], *rest], __doc__, values, lambda values: _run(name, values), (config_lib.ConfigError,))


def _run(name: str, values: flags.FlagValues) -> int:
    if name not in EXPERIMENTS:
        raise cli.UsageError(f"NAME={name} is no experiment; choose from {', '.join(EXPERIMENTS)}")
    if values.scale not in spec.SCALES:
        raise cli.UsageError(f"--scale={values.scale} is missing or unknown; choose from {', '.join(spec.SCALES)}")
    experiment = EXPERIMENTS[name]
    out = pathlib.Path(values.out or f"runs/experiments/{values.scale}")
    cli.use_compilation_cache()
    outcomes = pool.train_all(experiment.runs(values.scale), out, workers=values.workers, backend=values.backend)
    return pool.tell_failures(outcomes)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
