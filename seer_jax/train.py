"""The command that trains.

python -m seer_jax.train --config=configs/rainbow_atari.py[:PRESET] [--config.FIELD=VALUE] [--run_dir=DIR] [--plan]
python -m seer_jax.train --run_dir=DIR --resume    # goes on with the run in DIR from its newest checkpoint
"""

import pathlib
import sys
import time
from collections.abc import Callable, Sequence

import rich.console
from absl import flags
from ml_collections import ConfigDict, config_flags

from seer_jax import cli
from seer_jax.envs import registry
from seer_jax.envs.timestep import BadTimeStep
from seer_jax.run import assembly, checkpoint, metrics, plan, transfer
from seer_jax.run import resolve as config_lib
from seer_jax.run import run_dir as run_dir_lib
from seer_jax.run.loop import NotFinite, NotSaved, Stopped, Trainer
from seer_jax.seer import handover, phases

_EPISODE_STEPS = 1000  # that many tasks' episodes take
_REFUSALS = (config_lib.ConfigError, transfer.TransferError, checkpoint.CheckpointError)


def run(
    config: ConfigDict,
    run_dir: str | pathlib.Path,
    *,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    arguments: Sequence[str] = (),
) -> dict:
    """Trains an agent and leaves everything about the run in `run_dir`.

    Args:
      config: like those in `configs/`.
      run_dir: a directory that does not exist yet, or is empty, unless a run is resumed.
      resume: go on with the run that `run_dir` holds, if it holds one, from its newest checkpoint, if it has one.
      stop: asked before each step whether to write a checkpoint and stop.
      arguments: of the command line that gave `config`, for the run's manifest.

    Returns:
      The record of kind `end` in `metrics.jsonl`.

    Raises:
      ConfigError: config or run_dir cannot be used, or the run needs more memory than there is; nothing was written.
      TransferError: the encoder of `seer.init_from` cannot be used.
      CheckpointError: there are checkpoints, and none of them can be used.
      Stopped: `stop` said so.
      NotFinite: numbers went bad and `on_nan` is stop.
      BadTimeStep: an environment sent what cannot be learned from.
      HandoverError: frames could not become latents.
      NotSaved: the last checkpoint cannot be written.
      WriteError: metrics cannot be written.
    """
    config, directory = config_lib.resolve(config), pathlib.Path(run_dir)
    saved, started = None, resume and run_dir_lib.is_started(directory)
    if started:
        run_dir_lib.check_same(config, directory)
        saved = checkpoint.newest(directory / checkpoint.DIRECTORY, _warn)
    if config.seer.init_from is not None and saved is None:
        transfer.check(config)
    env = registry.make_env(config, training=True, pool=saved.progress["pool"] if saved else 0)
    try:
        parts = assembly.assemble(config, env.action_spec)
        plan.refuse_if_too_large(config, plan.sizes(parts))
        encoder = None
        if config.seer.init_from is not None and saved is None:
            encoder = transfer.load_encoder(config, parts.state(phases.FULL).params)
        if not started:
            if resume:
                run_dir_lib.clear_unstarted(directory)
            run_dir_lib.start(config, directory, arguments)
        trainer = Trainer(parts, env, directory, encoder, saved, _warn)
    except BaseException:
        env.close()
        raise
    try:
        _warn_of_short_lives(config)
        return trainer.train(stop)
    finally:
        trainer.close()


def _warn_of_short_lives(config: ConfigDict) -> None:
    lives = config.checkpoint_every // config.num_envs
    if 0 < lives < _EPISODE_STEPS:
        _warn(
            f"each environment is made anew after {lives:,} steps, which cuts episodes that are longer; raise"
            f" checkpoint_every (now {config.checkpoint_every:,}) or lower num_envs (now {config.num_envs})"
        )


def _warn(message: str) -> None:
    print(f"train: {message}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line `argv`, whose first element is the program's name; None stands for that of the process.

    Returns:
      The exit code.
    """
    argv = sys.argv if argv is None else argv
    values = cli.make_flags()
    cli.define_config(values, argv, "Configuration of the run.")
    flags.DEFINE_string("run_dir", None, "New directory for all that the run leaves.", flag_values=values)
    flags.DEFINE_bool("resume", False, "Go on with the run in run_dir, if there is one.", flag_values=values)
    flags.DEFINE_bool("plan", False, "Print what the run will cost and stop.", flag_values=values)
    return cli.main(argv, __doc__, values, _train, _REFUSALS)


def _train(values: flags.FlagValues) -> int:
    config = _config(values)
    cli.use_compilation_cache()
    run_dir = values.run_dir or f"runs/{config.env.task}-{time.strftime('%Y%m%d-%H%M%S')}"
    go_on = f"go on with --run_dir={run_dir} --resume"
    try:
        if values.plan:
            plan.show(config)
            return 0
        with cli.signals() as received:
            try:
                arguments = _config_arguments(values["config"])
                run(config, run_dir, resume=values.resume, stop=lambda: bool(received), arguments=arguments)
            except Stopped:
                print(f"train: stopped; {go_on}", file=sys.stderr)
                return 128 + received[0]
    except plan.DoesNotFit as error:
        console = rich.console.Console(stderr=True)
        for table in error.tables:
            console.print(table)
        raise
    except (NotFinite, BadTimeStep) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    except (handover.HandoverError, metrics.WriteError, NotSaved) as error:
        print(f"train: {error}; {go_on}", file=sys.stderr)
        return 1
    return 0


def _config(values: flags.FlagValues) -> ConfigDict:
    """Returns the configuration that the command line gives, or that of the run to resume."""
    if values.resume and values.run_dir is None:
        raise cli.UsageError("--resume needs --run_dir=DIR, the directory of the run to go on with")
    if values.config is not None:
        return config_lib.resolve(cli.loaded(values.config))
    if not values.resume:
        raise cli.UsageError("--config=FILE is missing, for example --config=rainbow_atari")
    config = run_dir_lib.read_config(pathlib.Path(values.run_dir))
    if code := run_dir_lib.code_of_others(config, trusted=None):
        raise cli.UsageError(
            f"--run_dir={values.run_dir} runs code of yours, {code}; if you trust it, add its --config"
        )
    return config_lib.resolve(config)


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
