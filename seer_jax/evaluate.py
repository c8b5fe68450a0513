"""The command that evaluates a run: plays whole episodes with its newest parameters.

python -m seer_jax.evaluate --run_dir=runs/NAME [--episodes=N] [--best] [--video] [--config=FILE]

The seeds of a run of several are played together; DIR/seed-N names one of them.

--config names the run's configuration file if that file holds code of yours: an agent, a suite, a Haiku encoder.
"""

import sys

from seer_jax import status

if __name__ == "__main__" or sys.argv[0].endswith("/seer-evaluate"):
    status.start("evaluate")  # before the other imports, which take seconds

import dataclasses
import os
import pathlib
import time
import traceback
from collections.abc import Sequence

import imageio.v2 as imageio
import jax
import numpy as np
import rich.console
import rich.table
from absl import flags
from ml_collections import ConfigDict

from seer_jax import cli, files
from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.envs.timestep import EnvironmentFailedError, InvalidTimeStepError
from seer_jax.fields import ConfigError
from seer_jax.run import evaluation, group, policy
from seer_jax.seer.placement import Placement

_VIDEO_SCALE = 4  # a stored frame is small: its pixels are repeated
_FRAMES_PER_SECOND = 60


def main(argv: list[str] | None = None) -> int:
    """Runs the command line `argv`, whose first element is the program's name; None stands for that of the process.

    Returns:
      The exit code.
    """
    argv = sys.argv if argv is None else argv
    values = cli.make_flags()
    flags.DEFINE_string("run_dir", None, "Directory of a run.", flag_values=values)
    flags.DEFINE_integer(
        "episodes", None, "Episodes to play; the run's eval_episodes unless given.", 1, 1000, flag_values=values
    )
    flags.DEFINE_bool("best", False, "Play with the parameters that keep_best=True keeps.", flag_values=values)
    cli.define_config(values, argv, "The run's configuration, if it holds code of yours.")
    flags.DEFINE_bool("video", False, "Write a video of the first episode into videos/.", flag_values=values)
    return cli.main(argv, __doc__, values, _evaluate)


def _evaluate(values: flags.FlagValues) -> int:
    if values.run_dir is None:
        raise cli.UsageError("--run_dir=DIR is missing: the directory of a run")
    run_dir = pathlib.Path(values.run_dir)
    if not (run_dir / "config.json").is_file():
        raise cli.UsageError(f"--run_dir={run_dir} is not the directory of a run: it holds no config.json")
    seeds = group.seeds_in(run_dir) or [run_dir]
    if values.video and len(seeds) > 1:
        raise cli.UsageError(f"--video: {run_dir} {group.name_seeds(seeds)}")
    trusted = None if values.config is None else cli.loaded(values.config)
    saved = [_read_saved(path, trusted, best=values.best) for path in seeds]
    config = dataclasses.replace(saved[0].config, eval_episodes=values.episodes or saved[0].config.eval_episodes)
    if values.video:
        _make_video_dir(run_dir)
    cli.use_compilation_cache()
    frames: list[np.ndarray] | None = [] if values.video else None
    try:
        played = _play(config, saved, frames)
    except files.DamagedFileError as error:
        raise cli.UsageError(f"--run_dir={run_dir} has no parameters for its configuration: {error}") from None
    except (EnvironmentFailedError, InvalidTimeStepError) as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        _warn(str(error))
        return 1
    for each, episodes in zip(saved, played, strict=True):
        _print_table(each, episodes, name_seed=len(saved) > 1)
    if len(saved) > 1:
        means = np.array([episodes.scores.mean() for episodes in played])
        print(f"score of {len(saved)} seeds: {means.mean():,.1f} ± {means.std(ddof=1):,.1f}")
    if frames:
        name = f"{saved[0].env_steps:09d}-{time.strftime('%Y%m%d-%H%M%S')}.mp4"  # no video replaces another
        _write_video(run_dir / "videos" / name, frames, action_repeat=config.env.action_repeat)
    return 0


def _play(
    config: RunConfig, saved: Sequence[policy.SavedRun], frames: list[np.ndarray] | None
) -> list[evaluation.Episodes]:
    """Plays with the parameters of all seeds at once, `config` being that of the first; returns each one's episodes."""
    place = Placement(len(saved))
    env = registry.make_env(config, training=False, pools=[0] * len(saved))
    try:
        agents, params = zip(*(each.make_agent(env.action_spec) for each in saved), strict=True)
        act = evaluation.make_act(agents[0], first_stack=config.env.first_stack, map_seeds=place.map_seeds)
        return evaluation.play(
            act,
            place.stack(params, lanes=False),
            env,
            place.stack([jax.random.PRNGKey(each.config.seed) for each in saved], lanes=False),
            num_seeds=len(saved),
            frame_stack=config.env.frame_stack,
            frames=frames,
        )
    finally:
        env.close()


def _warn(message: str) -> None:
    print(f"evaluate: {message}", file=sys.stderr)


def _make_video_dir(run_dir: pathlib.Path) -> None:
    try:
        (run_dir / "videos").mkdir(exist_ok=True)
    except OSError as error:
        raise cli.UsageError(f"--video cannot write into {run_dir}: {error.strerror}") from None


def _read_saved(run_dir: pathlib.Path, trusted: ConfigDict | None, *, best: bool) -> policy.SavedRun:
    try:
        return policy.read_saved(run_dir, trusted, _warn, best=best)
    except files.DamagedFileError as error:
        raise cli.UsageError(f"--run_dir={run_dir} has no parameters: {error}") from None
    except ConfigError as error:
        raise cli.UsageError(f"--run_dir={run_dir} cannot be evaluated here: {error}") from None


def _write_video(path: pathlib.Path, frames: list[np.ndarray], *, action_repeat: int) -> None:
    fps = max(1, _FRAMES_PER_SECOND // action_repeat)
    # imageio would fork this process, which has threads, so that Ctrl-C does not reach the encoder.
    os.environ["IMAGEIO_FFMPEG_NO_PREVENT_SIGINT"] = "1"
    with imageio.get_writer(path, fps=fps, macro_block_size=1) as video_file:
        for frame in frames:
            large = np.kron(frame, np.ones((_VIDEO_SCALE, _VIDEO_SCALE, 1), np.uint8)).squeeze()
            video_file.append_data(large)  # pyright: ignore[reportAttributeAccessIssue]
    print(f"video of the first episode: {path}")


def _print_table(saved: policy.SavedRun, played: evaluation.Episodes, *, name_seed: bool) -> None:
    config = saved.config
    name = f"{config.env.task}, seed {config.seed}," if name_seed else config.env.task
    table = rich.table.Table(title=f"{name} after {saved.env_steps:,} agent steps")
    for column in ("episode", "score", "agent steps"):
        table.add_column(column, justify="right")
    for i, (score, length) in enumerate(zip(played.scores, played.lengths, strict=True)):
        table.add_row(str(i + 1), f"{score:,.1f}", f"{length:,}", end_section=i + 1 == len(played.scores))
    table.add_row("mean", f"{played.scores.mean():,.1f} ± {played.scores.std():,.1f}", f"{played.lengths.mean():,.0f}")
    normalized, reason = evaluation.human_normalized(config.env, played)
    if normalized is not None:
        table.add_row("human-normalized", f"{normalized:.3f}", "")
    rich.console.Console().print(table)
    if reason:
        print(reason)


if __name__ == "__main__":
    sys.exit(main())
