"""Says where rules would have frozen the encoder of runs that are there, from their signals, and what that would save.

python -m experiments.freeze_advice RUN_DIR...

RUN_DIR is a run, a directory of runs, or a file of records. The runs need signals (`seer.signal_every`), best those of
a run without a freeze: after a freeze there are none. Costs are those of acting and learning, in multiply-accumulates,
for as many agent steps as the run took.
"""

import pathlib
import sys

import rich.console
import rich.table
from absl import flags

from experiments.report import discovery, records
from experiments.report.records import RunRecords
from experiments.runner import budget
from experiments.studies import freeze_rules
from seer_jax import cli
from seer_jax.config import SIGNAL_EVERY
from seer_jax.fields import ConfigError
from seer_jax.run import resolve
from seer_jax.seer.phases import FULL


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    return cli.main(argv, __doc__, cli.make_flags(), _run, (ConfigError, records.RecordsError), takes_operands=True)


def _run(values: flags.FlagValues, *paths: str) -> int:
    del values
    if not paths:
        raise cli.UsageError("RUN_DIR is missing; name run directories, directories of runs, or files of records")
    console = rich.console.Console()
    for run in discovery.read_all([pathlib.Path(path) for path in paths]).values():
        if not run.of_kind("signal"):
            print(f"{run.name} has no signals; train it with seer.signal_every, for example {SIGNAL_EVERY}")
            continue
        try:
            console.print(advice(run))
        except ConfigError as error:
            print(f"{run.name} is left out: {error}", file=sys.stderr)
    return 0


def advice(run: RunRecords) -> rich.table.Table:
    """Returns a table with the freeze of each rule and its cost.

    Args:
      run: with signals.

    Raises:
      ConfigError: its configuration is not one of this version.
    """
    signals, env_steps = run.of_kind("signal"), run.lines[-1]["env_steps"]
    config = resolve.resolve(resolve.stored_config(run.config))
    full, frozen = budget.macs_per_step(config)
    known = int(signals[-1]["env_steps"])
    ended = env_steps if run.lines[-1]["phase"] == FULL else known
    whole = (env_steps - config.learn_start) * full
    table = rich.table.Table(title=f"{run.name}: {env_steps:,} agent steps, {whole / 1e12:,.2f}T without a freeze")
    for column in ("rule", "freezes after", "T multiply-accumulates", "saves"):
        table.add_column(column, justify="left" if column == "rule" else "right")
    for rule in (rule for rule in freeze_rules.RULES if rule.can_decide(signals)):
        step = rule.decide(signals, lambda _: config.total_steps)
        if step is None:
            table.add_row(rule.name, "-" if ended == env_steps else f"not by {known:,}", "-", "-")
        elif step <= config.learn_start:
            table.add_row(rule.name, f"{step:,}", "before learning", "-")
        else:
            macs = (step - config.learn_start) * full + max(0, env_steps - step) * frozen
            table.add_row(rule.name, f"{step:,}", f"{macs / 1e12:,.2f}", f"{1 - macs / whole:.0%}")
    table.caption = f"signals up to {known:,} agent steps"
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv))
