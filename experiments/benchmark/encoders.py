"""What each encoder costs, in both phases: multiply-accumulates and time of an update, and bytes of a row.

    python -m experiments.benchmark.encoders [--agents=rainbow --agents=curl] [--times=True] [--json=FILE]

The settings are the paper's, with rings of 2,000 rows of random frames. Latents are float32; CURL stores four of a row.
Multiply-accumulates are those of the networks, counted in the paper's convention. Times are medians of updates of both
phases by turns. CURL with encoders of width 4 is counted, and not timed: its full update takes a CPU half a minute.
"""

import json
import pathlib
import statistics
import sys
from collections.abc import Iterator
from typing import Any

import jax
from absl import flags

from experiments.benchmark.cases import cases
from experiments.benchmark.jax_side import PHASES, Environments, JaxSide
from experiments.benchmark.synthetic import use_synthetic_suites
from seer_jax import cli, files
from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.run import assembly, plan_output
from seer_jax.seer import capacity
from seer_jax.seer.phases import FROZEN, FULL

_TURNS = 3
_SECONDS = 2.0  # of the repetitions of a turn
# Encoders and widths by agent.
_ENCODERS = {
    "rainbow": (("data_efficient", 1), ("canonical", 1), ("impala", 1), ("impoola", 1), ("impala", 4), ("impoola", 4)),
    "curl": (("sac_ae", 1), ("impala", 1), ("impoola", 1), ("impala", 4), ("impoola", 4)),
}
_UNTIMED = ("curl", 4)  # agent and width

Record = dict[str, Any]


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    values = cli.make_flags()
    flags.DEFINE_multi_enum("agents", [*_ENCODERS], [*_ENCODERS], "Agents to measure.", flag_values=values)
    flags.DEFINE_bool("times", True, "Time updates, too.", flag_values=values)
    flags.DEFINE_string("json", None, "File to write all figures to.", flag_values=values)
    return cli.main(argv, __doc__, values, _run)


def _run(values: flags.FlagValues) -> None:
    json_file = None if values.json is None else pathlib.Path(values.json)
    if json_file is not None:
        plan_output.check_file(json_file)
    use_synthetic_suites()
    cli.use_compilation_cache()
    records: list[Record] = []
    for record in _measure(values.agents, timed=values.times):
        records.append(record)
        print(_line(record), flush=True)
        if json_file is not None:
            files.write_file(json_file, json.dumps(records, indent=1).encode() + b"\n")


def _measure(agents: list[str], *, timed: bool) -> Iterator[Record]:
    for agent in agents:
        for name, width in _ENCODERS[agent]:
            config = cases(quick=True, encoder={"name": name, "width": width})[agent]
            record = {"agent": agent, "encoder": name, "width": width} | _count(config)
            yield record | (_time(config) if timed and (agent, width) != _UNTIMED else {})


def _count(config: RunConfig) -> Record:
    """Returns bytes of a row and multiply-accumulates of an update, by phase; compiles nothing."""
    env = registry.make_env(config, training=True)
    parts = assembly.assemble(config, env.action_spec)
    env.close()
    frame, latent = capacity.bytes_per_row(config)
    macs = {name: parts.phase(name).jit(jax.default_backend()).update_macs for name in PHASES}
    return {"frame_bytes": frame, "latent_bytes": latent} | {f"{name}_update_macs": x for name, x in macs.items()}


def _time(config: RunConfig) -> Record:
    """Returns the milliseconds of an update of each phase."""
    envs = Environments(config)
    side = JaxSide(config, envs)
    envs.vector_env.close()
    times: dict[str, list[float]] = {name: [] for name in PHASES}
    for _ in range(_TURNS):
        for name in PHASES:
            times[name].append(statistics.median(side.time_learn(name, _SECONDS)))
    return {f"{name}_update_ms": statistics.median(each) for name, each in times.items()}


def _line(record: Record) -> str:
    what = f"{record['agent']:8} {record['encoder']:14} width {record['width']}: "
    parts = [f"row {record['frame_bytes']:,} -> {record['latent_bytes']:,} bytes"]
    for figure, unit, name in (("macs", 1e6, "M multiply-accumulates"), ("ms", 1.0, "ms")):
        full, frozen = (record.get(f"{phase}_update_{figure}") for phase in (FULL, FROZEN))
        if full is not None and frozen is not None:
            parts.append(f"update {full / unit:,.1f} -> {frozen / unit:,.1f} {name}, {full / frozen:,.1f} times")
    return what + "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main(["encoders", *sys.argv[1:]]))
