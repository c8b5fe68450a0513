"""The command that trains, and the function behind it.

python -m seer_jax.train --config=configs/rainbow_atari.py[:PRESET] [--config.FIELD=VALUE] [--run_dir=DIR]
python -m seer_jax.train --config=... --plan [--target=DEVICE] [--json=FILE]    # what the run will cost; starts nothing
python -m seer_jax.train --run_dir=DIR --resume    # continues the run in DIR from its newest checkpoint
python -m seer_jax.train --run_dir=DIR --resume --config.total_steps=N    # and goes on to N agent steps
python -m seer_jax.train --fork=DIR[@STEP] --run_dir=NEW --config.FIELD=VALUE    # a run that begins with one of its
                                                                        # checkpoints, with other values from there on

On several hosts, one process on each: any of these with --coordinator=HOST:PORT --num_processes=P --process_id=I, or
with --coordinator=auto on a cluster; see docs/accelerators.md.
"""

import sys

from seer_jax import status

if __name__ == "__main__" or sys.argv[0].endswith("/seer-train"):
    status.start("train")  # before the other imports, which take seconds

import contextlib
import functools
import pathlib
import shlex
import traceback
from collections.abc import Callable, Iterator, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from seer_jax import cli, files
from seer_jax.config import RunConfig
from seer_jax.envs.timestep import EnvironmentFailedError, InvalidTimeStepError
from seer_jax.fields import ConfigError
from seer_jax.run import fork as fork_lib
from seer_jax.run import (
    lock,
    metrics,
    plan,
    plan_output,
    resolve,
    rules,
    start,
    target_plan,
    targets,
    transfer,
)
from seer_jax.run import run_dir as run_dir_lib
from seer_jax.run.loop import CheckpointSaveError, NonFiniteError, RunStopped
from seer_jax.run.records import Receiver, Record
from seer_jax.seer import handover
from seer_jax.seer import hosts as hosts_lib
from seer_jax.seer.hosts import HostFailedError, HostLostError, Hosts

_REFUSALS = (ConfigError, transfer.TransferError, files.DamagedFileError)


def run(
    config: ConfigDict | RunConfig,
    run_dir: str | pathlib.Path,
    *,
    resume: bool = False,
    fork: str | None = None,
    stop: Callable[[], bool] = lambda: False,
    receivers: Sequence[Receiver] = (),
    arguments: Sequence[str] = (),
) -> Record:
    """Trains an agent and writes everything about the run into `run_dir`.

    After `jax.distributed.initialize`, each process calls this with the same arguments. `receivers` are called in
    process 0; `stop` of any process stops all.

    Args:
      config: a configuration like those in `configs/`, or one that `resolve` returned.
      run_dir: a directory that does not exist yet, or is empty, unless a run is resumed. It is locked while this
        function runs.
      resume: continue the run that `run_dir` holds from its newest checkpoint; without one, start it. `config` may
        differ from that of the run in the fields `continuation.CHANGEABLE`.
      fork: `RUN_DIR[@STEP]`: begin with everything that another run had at one of its checkpoints, the newest or the
        one after STEP agent steps. `config` may differ from that of this run in the fields `fork.CHANGEABLE`, and
        before its freeze in `fork.CHANGEABLE_BEFORE_FREEZE`. With `resume`, a fork that has started is continued.
      stop: called before each step, those of evaluations and parts of the handover included; True makes the run write
        a checkpoint and stop. What it interrupts is done again, in full, when the run is resumed.
      receivers: each is called with every record, a dictionary like a line of `metrics.jsonl`; of several seeds it has
        the field `seed`, too.
      arguments: arguments of the command line that gave `config`, for the run's manifest.

    Returns:
      The record of kind `end` in `metrics.jsonl`. Of several seeds, a record whose field `seeds` holds that of each.

    Raises:
      ConfigError: config or run_dir cannot be used, the latter also because another process trains in it, or the run
        needs more memory than there is; nothing was written.
      TransferError: the encoder of `seer.init_from` cannot be used.
      DamagedFileError: there were checkpoints, and none of them can be used.
      RunStopped: `stop` returned True.
      NonFiniteError: a loss or a parameter is not finite, and `on_nan` is stop.
      InvalidTimeStepError: an environment sent a value that cannot be learned from. A checkpoint was written.
      EnvironmentFailedError: an environment raised an exception, its cause. A checkpoint was written.
      HandoverError: frames could not become latents.
      CheckpointSaveError: the last checkpoint cannot be written.
      WriteError: metrics cannot be written.
      RunDirectoryLostError: `run_dir` was removed, moved or replaced during the run.
      HostFailedError: another host failed.
      HostLostError: another host does not answer any more.
    """
    config = config if isinstance(config, RunConfig) else resolve.resolve(config)
    directory = run_dir_lib.locate(run_dir)
    with hosts_lib.together(stop) as hosts:
        warn = _warn if hosts.leads else _ignore
        start.check_same(hosts, config, directory, resume=resume, fork=fork)
        with start.hold(directory, config, resume=resume, warn=warn, hosts=hosts) as check_run_dir:
            try:
                end = start.run_in(
                    directory,
                    config,
                    resume=resume,
                    fork=fork,
                    receivers=receivers,
                    arguments=arguments,
                    warn=warn,
                    check_run_dir=check_run_dir,
                    hosts=hosts,
                )
            except Exception:
                check_run_dir()  # without the directory, any other error follows from its loss
                raise
    if hosts.leads:
        print(f"run directory: {directory}", flush=True)
    return end


def _print_warnings(config: RunConfig, platform: str | None = None) -> None:
    for message in rules.warnings(config, platform):
        _warn(message)


def _warn(message: str) -> None:
    print(f"train: {message}", file=sys.stderr)


def _ignore(message: str) -> None:
    del message


def main(argv: list[str] | None = None) -> int:
    """Runs the command line `argv`, whose first element is the program's name; None stands for that of the process.

    Returns:
      The exit code.
    """
    argv, overrides = cli.take_overrides(sys.argv if argv is None else argv)
    values = cli.make_flags()
    cli.define_config(values, argv, "Configuration of the run.")
    flags.DEFINE_string("run_dir", None, "New directory for all files of the run.", flag_values=values)
    flags.DEFINE_bool("resume", False, "Continue the run in run_dir, if there is one.", flag_values=values)
    text = "RUN_DIR or RUN_DIR@STEP: begin with the newest checkpoint of another run, or with that after STEP steps."
    flags.DEFINE_string("fork", None, text, flag_values=values)
    flags.DEFINE_bool("plan", False, "Print the costs of the run and stop.", flag_values=values)
    text = f"With --plan: a device to plan for without having one, of {', '.join(targets.TARGETS)}."
    flags.DEFINE_string("target", None, text, flag_values=values)
    flags.DEFINE_string("json", None, "With --plan: a file to write the plan to, too.", flag_values=values)
    text = "On several hosts: HOST:PORT at which process 0 listens, or auto for what SLURM or another cluster says."
    flags.DEFINE_string("coordinator", None, text, flag_values=values)
    text = "With --coordinator=HOST:PORT: how many processes train together."
    flags.DEFINE_integer("num_processes", None, text, flag_values=values)
    text = "With --coordinator=HOST:PORT: number of this process, from 0 on."
    flags.DEFINE_integer("process_id", None, text, flag_values=values)
    return cli.main(argv, __doc__, values, functools.partial(_train, overrides=overrides), _REFUSALS)


def _train(values: flags.FlagValues, overrides: list[str]) -> int:
    try:
        _check_host_flags(values)
        if values.plan:
            if values.fork is not None:
                raise cli.UsageError("--plan plans a whole run; leave out --fork and give its --config")
            _plan(values, overrides)
            return 0
        for name in ("target", "json"):
            if values[name].present:
                raise cli.UsageError(f"--{name} needs --plan, which prints what a run will cost")
        if values.coordinator is not None:
            hosts_lib.initialize(values.coordinator, values.num_processes, values.process_id)
        with hosts_lib.together() as hosts:
            if not hosts.leads:
                status.disable()
            config = _config(values, overrides)
            cli.use_compilation_cache()
            with _directory(values, config, hosts) as run_dir:
                return _train_in(run_dir, config, values, overrides, hosts)
    except HostLostError as error:
        run_dir = "DIR" if values.run_dir is None else shlex.quote(values.run_dir)
        print(f"train: {error}; continue on all hosts with --run_dir={run_dir} --resume", file=sys.stderr)
        hosts_lib.leave(1)
    except plan.OutOfMemoryError as error:
        plan_output.show(error.tables, stderr=True)
        raise


def _check_host_flags(values: flags.FlagValues) -> None:
    """Raises UsageError if the flags about several hosts do not go together."""
    numbers, given = ("num_processes", "process_id"), values.coordinator is not None
    named = [f"--{name}" for name in numbers if values[name].present]
    if not given:
        if named:
            raise cli.UsageError(f"{named[0]} needs --coordinator=HOST:PORT, the address of process 0")
        return
    if values.plan:
        raise cli.UsageError("--plan plans for one host; leave out --coordinator")
    if values.coordinator == "auto":
        if named:
            raise cli.UsageError(f"--coordinator=auto finds out {named[0]} itself; leave it out")
        return
    host, _, port = values.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise cli.UsageError(f"--coordinator={values.coordinator} is neither HOST:PORT nor auto")
    if len(named) < len(numbers):
        raise cli.UsageError("--coordinator=HOST:PORT needs both --num_processes=P and --process_id=I")
    if not 0 <= values.process_id < values.num_processes:
        raise cli.UsageError(
            f"--process_id={values.process_id} is not one of 0 to {values.num_processes - 1}, the numbers of"
            f" --num_processes={values.num_processes}"
        )


@contextlib.contextmanager
def _directory(values: flags.FlagValues, config: RunConfig, hosts: Hosts) -> Iterator[str]:
    """Yields the directory of the run, which process 0 makes if none is named."""
    if values.run_dir is not None:
        yield values.run_dir
        return
    with run_dir_lib.new(config) if hosts.leads else contextlib.nullcontext() as run_dir:
        yield hosts.lead(lambda: str(run_dir))


def _plan(values: flags.FlagValues, overrides: list[str]) -> None:
    json_file = None if values.json is None else pathlib.Path(values.json)
    if json_file is not None:
        plan_output.check_file(json_file)
    if values.target is None:
        config = _config(values, overrides)
        cli.use_compilation_cache()
        _print_warnings(config)
        plan.show(config, json_file)
        return
    target = targets.find(values.target)
    with target.environment():  # before anything can use a device of this machine
        config = _config(values, overrides)
        _print_warnings(config, target.platform)
        target_plan.show(config, target, json_file)


def _train_in(run_dir: str, config: RunConfig, values: flags.FlagValues, overrides: list[str], hosts: Hosts) -> int:
    go_on = f"continue with --run_dir={shlex.quote(run_dir)} --resume"
    begin = {
        "resume": values.resume,
        "fork": values.fork,
        "arguments": [*_fork_argument(values), *(overrides or _config_arguments(values["config"]))],
    }
    try:
        with cli.signals() as received:
            run(config, run_dir, stop=lambda: bool(received), **begin)
    except RunStopped:
        print(f"train: stopped; {go_on}", file=sys.stderr)
        return 128 + max(hosts.exchange(received[0] if received else 0))  # that of the host which got it
    except (NonFiniteError, CheckpointSaveError, lock.RunDirectoryLostError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    except EnvironmentFailedError as error:
        if error.__cause__ is not None:  # else an environment of another host raised it
            traceback.print_exception(error.__cause__)
        print(f"train: {error}; {go_on}", file=sys.stderr)
        return 1
    except (InvalidTimeStepError, handover.HandoverError, metrics.WriteError, HostFailedError) as error:
        print(f"train: {error}; {go_on}", file=sys.stderr)
        return 1
    return 0


def _config(values: flags.FlagValues, overrides: list[str]) -> RunConfig:
    """Returns the configuration that the command line gives, or that of the run to resume or fork with `overrides`."""
    if values.resume and values.run_dir is None:
        raise cli.UsageError("--resume needs --run_dir=DIR, the directory of the run to continue")
    if values.config is not None:
        return resolve.resolve(cli.loaded(values.config))
    resumed = run_dir_lib.locate(values.run_dir) if values.resume else None
    if values.fork is not None and not (resumed is not None and run_dir_lib.is_started(resumed)):
        flag, directory = f"--fork={values.fork}", fork_lib.parse(values.fork)[0]
        if not run_dir_lib.is_started(directory):
            raise cli.UsageError(f"{flag}: {directory} is not the directory of a run; name one that train made")
    elif resumed is not None:
        flag, directory = f"--run_dir={values.run_dir}", resumed
    else:
        raise cli.UsageError("--config=FILE is missing, for example --config=rainbow_atari")
    config = run_dir_lib.read_config(directory)
    if code := run_dir_lib.foreign_code(config, trusted=None):
        raise cli.UsageError(f"{flag} runs code of yours, {code}; if you trust it, add its --config")
    resolved = resolve.resolve(config)
    return resolve.resolve(cli.override(ConfigDict(resolved.to_dict()), overrides)) if overrides else resolved


def _fork_argument(values: flags.FlagValues) -> list[str]:
    return [] if values.fork is None else [f"--fork={values.fork}"]


def _config_arguments(flag: flags.Flag) -> list[str]:
    """Returns the arguments that give the configuration again: its file and the fields that were set."""
    if not flag.present:
        return []
    fields = config_flags.get_override_values(flag)
    return [
        f"--config={config_flags.get_config_filename(flag)}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


if __name__ == "__main__":
    sys.exit(main())
