"""What the compilers of TPUs and GPUs say of both agents with several seeds in one program; nothing is run.

python -m experiments.benchmark.estimates [--target=tpu-v5e --target=h100 ...] [--seeds=1,2,4,8,16] [--json=FILE]

It prints a table for each target, and writes all figures to the file, phase after phase. It needs neither EnvPool nor
the network nor a device, but the compilers of the targets: docs/accelerators.md. Each phase is compiled in a process of
its own, which is ended after five minutes of processor time: the table then says `not compiled`. The settings are those
of the paper, with a ring of 100,000 rows for Rainbow and of 20,000 for CURL, in both phases. All figures are estimates
of compilers.
"""

import json
import multiprocessing
import pathlib
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import jax
from absl import flags

from configs import curl_dmc, rainbow_atari
from experiments.benchmark.estimates_table import table
from experiments.benchmark.synthetic import ACTIONS, use_synthetic_suites
from seer_jax import cli, files
from seer_jax.config import RunConfig
from seer_jax.fields import ConfigError
from seer_jax.run import needs, plan_output, target_plan, targets
from seer_jax.run.assembly import assemble
from seer_jax.run.resolve import resolve
from seer_jax.run.targets import Target
from seer_jax.seer.phases import FROZEN, FULL

_TARGETS, _SEEDS = ["tpu-v5e", "h100"], ["1", "2", "4", "8", "16"]
_LIMIT_SECONDS = 300  # of processor time
# Configuration files, which give the paper's setting, and rows of both rings.
_AGENTS = {"rainbow": (rainbow_atari, 100_000), "curl": (curl_dmc, 20_000)}

Record = dict[str, Any]


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    values = cli.make_flags()
    names = ", ".join(targets.TARGETS)
    flags.DEFINE_multi_string("target", _TARGETS, f"Devices to compile for, of {names}.", flag_values=values)
    flags.DEFINE_list("seeds", _SEEDS, "Numbers of seeds in one program.", flag_values=values)
    flags.DEFINE_string("json", None, "File to write all figures to.", flag_values=values)
    return cli.main(argv, __doc__, values, _run, (ConfigError,))


def _run(values: flags.FlagValues) -> None:
    json_file = None if values.json is None else pathlib.Path(values.json)
    if json_file is not None:
        plan_output.check_file(json_file)
    counts = seed_counts(values)
    use_synthetic_suites()
    records: list[Record] = []
    for target in [targets.find(name) for name in values.target]:
        for record in _records(target, counts):
            records.append(record)
            if json_file is not None:
                files.write_file(json_file, json.dumps(records, indent=1).encode() + b"\n")
        print(f"\n{target.name}, by jax {jax.__version__} and {target.compiler}:\n")
        print(table([record for record in records if record["target"] == target.name]), flush=True)


def _records(target: Target, seeds: Sequence[int]) -> Iterator[Record]:
    for agent in _AGENTS:
        for phase in (FULL, FROZEN):
            for num_seeds in seeds:
                print(f"estimates: {target.name}, {agent}, {phase}, {num_seeds}", file=sys.stderr, flush=True)
                record = {"target": target.name, "compiler": f"jax {jax.__version__} and {target.compiler}"}
                record |= {"agent": agent, "phase": phase, "num_seeds": num_seeds}
                yield record | (estimate(target, agent, phase, num_seeds) or {"compiled": False})


def seed_counts(values: flags.FlagValues) -> list[int]:
    """Returns the numbers of seeds that a command line gives.

    Raises:
      UsageError: one is not a positive integer.
    """
    if not all(count.isdecimal() and int(count) for count in values.seeds):
        raise cli.UsageError(f"--seeds={','.join(values.seeds)} is not a list of numbers of seeds such as 1,2,4")
    return [int(count) for count in values.seeds]


def make_config(agent: str, num_seeds: int) -> RunConfig:
    """Returns the paper's setting of an agent with so many seeds, and a ring of as many rows in both phases."""
    config_file, rows = _AGENTS[agent]
    config = config_file.get_config()
    lengths = {"total_steps": 4 * rows, "seer.freeze_step": 2 * rows, "checkpoint_every": 0}
    ring = {"replay.capacity": rows, "replay.grow_after_freeze": False}
    config.update_from_flattened_dict(lengths | ring | {"num_seeds": num_seeds})
    return resolve(config)


def estimate(target: Target, agent: str, phase: str, num_seeds: int) -> Record | None:
    """Returns what a compiler says of the programs of a phase; None if it takes too long.

    Args:
      target: the device.
      agent: `rainbow` or `curl`.
      phase: `full` or `frozen`.
      num_seeds: in one program.

    Returns:
      Figures by the names of `plan_output.FIGURES`, of all seeds together; those that the compiler does not know are
      None, as are all of a program that it finds too large for the device. `compiled` is True, and
      `interact_steps` and `learn_steps` are agent steps, of all seeds, for each call.
    """
    context = multiprocessing.get_context("spawn")  # an XLA that compiled before keeps the flags that it read
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_send_estimate, args=(sender, _LIMIT_SECONDS, target.name, agent, phase, num_seeds)
    )
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGXCPU:
            return None
        raise ConfigError(f"the compiler of {target.name} failed, as printed above") from None
    finally:
        process.kill()
        process.join()


def _send_estimate(
    sender: Connection, limit_seconds: int, target_name: str, agent: str, phase: str, num_seeds: int
) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (limit_seconds, resource.RLIM_INFINITY))
    use_synthetic_suites()
    target = targets.find(target_name)
    with target.environment():
        config = make_config(agent, num_seeds)
        parts = assemble(config, ACTIONS[config.env.suite])
        (sizes,) = (each for each in needs.sizes(parts) if each.phase == phase)
        plan = target_plan.compile_phase(parts.phase(phase), sizes, target, *target.devices())
    steps = {f"{program}_steps": count for program, count in plan.steps_per_call.items()}
    sender.send({"compiled": True} | plan.figures() | steps)


if __name__ == "__main__":
    sys.exit(main(["estimates", *sys.argv[1:]]))
