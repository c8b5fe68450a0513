"""Evaluation: plays whole episodes with fixed parameters; also a command on a finished run.

python -m seer_jax.evaluate --run_dir=runs/NAME [--episodes=N] [--video] [--config=FILE]

--config names the run's configuration file, if it is one with code of yours: an agent, a suite, a Haiku encoder.
"""

import json
import pathlib
import sys
from typing import NamedTuple

import imageio.v2 as imageio
import jax
import numpy as np
import rich.console
import rich.table
from absl import flags
from ml_collections import ConfigDict

from seer_jax import cli, replay
from seer_jax.agents import base
from seer_jax.agents.registry import AGENTS
from seer_jax.envs import atari_scores, registry, timestep
from seer_jax.run import checkpoint
from seer_jax.run import resolve as config_lib
from seer_jax.run import run_dir as run_dir_lib
from seer_jax.seer import phases

_VIDEO_SCALE = 4  # a stored frame is small: repeat its pixels
_FRAMES_PER_SECOND = 60


class Episodes(NamedTuple):
    """Results of `[N]` episodes: undiscounted, unclipped scores and lengths in agent steps."""

    scores: np.ndarray
    lengths: np.ndarray


def make_act(agent: base.Agent):
    """Returns the jitted evaluation step `(params, stack, timestep, key, step) -> (action, stack)`."""

    @jax.jit
    def act(params, stack, timestep, key, step):
        stack = replay.push_frame(stack, timestep.frame, timestep.first)
        latents = agent.encode(params, agent.view(stack))
        return agent.act_eval(params, latents, jax.random.fold_in(key, step)), stack

    return act


def play(
    act, params: base.Params, env: timestep.VectorEnv, key: jax.Array, *, frame_stack: int, frames=None
) -> Episodes:
    """Plays one episode in every environment, so that short episodes are not counted more often than long ones.

    Args:
      act: from `make_act`.
      params: the agent's parameters.
      env: environments that play raw scores and whole games.
      key: PRNG key of the exploration that evaluation keeps.
      frame_stack: frames in an observation.
      frames: a list that receives the frames of the first episode, `[H, W, C]` uint8 each.
    """
    step, now = 0, env.reset()
    stack = phases.empty_stack(now, frame_stack)
    scores, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    running = np.ones(env.num_envs, bool)
    while running.any():
        if frames is not None and running[0]:
            frames.append(now.frame[0])
        action, stack = act(params, stack, now, key, np.int32(step))
        now = env.step(np.asarray(action))
        step += 1
        scores += np.where(running, now.score, 0.0)
        lengths += running
        running &= ~now.last
    return Episodes(scores, lengths)


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
    cli.define_config(values, argv, "The run's, to import code of yours that it uses.")
    flags.DEFINE_bool("video", False, "Write videos/episode.mp4 of the first episode.", flag_values=values)
    return cli.main(argv, __doc__, values, _evaluate)


def _evaluate(values: flags.FlagValues) -> None:
    if values.run_dir is None:
        raise cli.UsageError("--run_dir=DIR is missing: the directory of a run")
    run_dir = pathlib.Path(values.run_dir)
    if not (run_dir / "config.json").is_file():
        raise cli.UsageError(f"--run_dir={run_dir} is not the directory of a run: it holds no config.json")
    trusted = None if values.config is None else cli.loaded(values.config)
    config, saved = _load(run_dir, trusted)
    config.eval_episodes = values.episodes or config.eval_episodes
    if values.video:
        _make_video_dir(run_dir)
    cli.use_compilation_cache()
    env = registry.make_env(config, training=False)
    try:
        _play_and_tell(run_dir, config, env, saved, values.video)
    finally:
        env.close()


def _make_video_dir(run_dir: pathlib.Path) -> None:
    try:
        (run_dir / "videos").mkdir(exist_ok=True)
    except OSError as error:
        raise cli.UsageError(f"--video cannot write into {run_dir}: {error.strerror}") from None


def _load(run_dir: pathlib.Path, trusted: ConfigDict | None) -> tuple[ConfigDict, dict]:
    """Returns the run's configuration, and `env_steps` and `params` of its newest saved state."""
    try:
        config = ConfigDict(json.loads((run_dir / "config.json").read_text()))
        if code := run_dir_lib.code_of_others(config, trusted):
            raise cli.UsageError(f"--run_dir={run_dir} runs code of yours, {code}; if you trust it, add its --config")
        config = config_lib.resolve(config)
        trees, progress = checkpoint.load_newest_state(run_dir / checkpoint.DIRECTORY)
        return config.unlock(), {"env_steps": progress["env_steps"], "params": trees["train"]["params"]}
    except checkpoint.CheckpointError as error:
        raise cli.UsageError(f"--run_dir={run_dir} has no parameters: {error}") from None
    except config_lib.ConfigError as error:
        raise cli.UsageError(f"--run_dir={run_dir} cannot be evaluated here: {error}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise cli.UsageError(
            f"--run_dir={run_dir} is damaged: {type(error).__name__}: {cli.last_line(error)}"
        ) from None


def _play_and_tell(
    run_dir: pathlib.Path, config: ConfigDict, env: timestep.VectorEnv, saved: dict, video: bool
) -> None:
    agent = AGENTS[config.agent.name].make_agent(config, env.action_spec)
    key = jax.random.PRNGKey(config.seed)
    try:
        params = checkpoint.fit(jax.eval_shape(agent.init, key).params, saved["params"])
    except checkpoint.CheckpointError as error:
        raise cli.UsageError(f"--run_dir={run_dir} has no parameters for its configuration: {error}") from None
    frames = [] if video else None
    played = play(make_act(agent), params, env, key, frame_stack=config.env.frame_stack, frames=frames)
    _print_table(config, int(saved["env_steps"]), played)
    if frames:
        path = run_dir / "videos" / "episode.mp4"
        fps = max(1, _FRAMES_PER_SECOND // config.env.action_repeat)
        with imageio.get_writer(path, fps=fps, macro_block_size=1) as video_file:
            for frame in frames:
                video_file.append_data(np.kron(frame, np.ones((_VIDEO_SCALE, _VIDEO_SCALE, 1), np.uint8)).squeeze())
        print(f"video of the first episode: {path}")


def _print_table(config: ConfigDict, env_steps: int, played: Episodes) -> None:
    table = rich.table.Table(title=f"{config.env.task} after {env_steps:,} agent steps")
    for column in ("episode", "score", "agent steps"):
        table.add_column(column, justify="right")
    for i, (score, length) in enumerate(zip(*played, strict=True)):
        table.add_row(str(i + 1), f"{score:,.1f}", f"{length:,}", end_section=i + 1 == len(played.scores))
    table.add_row("mean", f"{played.scores.mean():,.1f} ± {played.scores.std():,.1f}", f"{played.lengths.mean():,.0f}")
    normalized = atari_scores.human_normalized(config.env.task, played.scores.mean())
    if normalized is not None:
        table.add_row("human-normalized", f"{normalized:.3f}", "")
    rich.console.Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
