"""Evaluation: plays whole episodes with fixed parameters."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from seer_jax import replay, status
from seer_jax.agents import base
from seer_jax.config import EnvConfig, RunConfig
from seer_jax.envs import atari_scores, registry
from seer_jax.envs import timestep as timestep_lib
from seer_jax.envs.timestep import TimeStep, VectorEnv
from seer_jax.run.records import Record

Act = Callable[..., tuple[jax.Array, jax.Array]]


class EvaluationStopped(Exception):
    """An evaluation was asked to stop; it has no result."""


class Episodes(NamedTuple):
    """Results of `[N]` episodes.

    Attributes:
      scores: undiscounted and unclipped.
      lengths: in agent steps.
      truncated: whether a limit of steps ended the episode.
    """

    scores: np.ndarray
    lengths: np.ndarray
    truncated: np.ndarray


def summary(config: RunConfig, played: Episodes) -> tuple[Record, str]:
    """Returns the fields of a record of kind `eval`, and the reason if there is no human-normalized score."""
    normalized, reason = human_normalized(config.env, played)
    return {
        "eval_return_mean": float(played.scores.mean()),
        "eval_return_std": float(played.scores.std()),
        "eval_returns": played.scores.tolist(),
        "eval_length_mean": float(played.lengths.mean()),
        "human_normalized": normalized,
    }, reason


def human_normalized(env: EnvConfig, played: Episodes) -> tuple[float | None, str]:
    """Returns the human-normalized mean score or None, and why a task that has published scores has none."""
    normalized = atari_scores.human_normalized(env.task, float(played.scores.mean()))
    cut = atari_scores.cut_short(played.lengths, played.truncated, action_repeat=env.action_repeat)
    if normalized is None or not cut:
        return normalized, ""
    standard = atari_scores.STANDARD_FRAMES // env.action_repeat
    return None, (
        f"no human-normalized score: {cut} of {len(played.scores)} episodes were truncated after fewer than"
        f" {standard:,} agent steps, those of published scores were not; raise env.max_episode_steps to compare"
    )


def make_act(agent: base.Agent, *, first_stack: str, map_seeds: Callable[[Act], Act] = lambda act: act) -> Act:
    """Returns the jitted evaluation step `(params, stack, timestep, key, step) -> (action, stack)`.

    Args:
      agent: the agent.
      first_stack: `env.first_stack` of its configuration.
      map_seeds: maps the step of one seed to that of S seeds, whose arguments and results begin with an axis `[S]`;
        the default is for one seed and no such axis.
    """

    def act(
        params: base.Params, stack: jax.Array, timestep: TimeStep[jax.Array], key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        stack = replay.push_frame(stack, timestep.frame, timestep.first, first_stack=first_stack)
        latents = agent.encode(params, agent.view(stack))
        return agent.act_eval(params, latents, jax.random.fold_in(key, step)), stack

    return jax.jit(map_seeds(act))


def play_new(
    config: RunConfig,
    act: Act,
    params: base.Params,
    key: jax.Array,
    *,
    env_steps: Sequence[int],
    plays: np.ndarray | None = None,
    stop: Callable[[], bool],
) -> list[Episodes]:
    """Plays as `play` does, in new environments: those of an earlier evaluation would not exist after a resume.

    Args:
      config: the configuration.
      act: from `make_act`.
      params: as in `play`.
      key: as in `play`.
      env_steps: agent steps so far of each of the S seeds, from which the seeds of its environments follow.
      plays: as in `play`.
      stop: as in `play`.

    Returns:
      The episodes of each seed.
    """
    with timestep_lib.environment_errors():
        env = registry.make_env(config, training=False, pools=env_steps)
    try:
        return play(
            act,
            params,
            env,
            key,
            num_seeds=len(env_steps),
            plays=plays,
            frame_stack=config.env.frame_stack,
            stop=stop,
        )
    finally:
        env.close()


def play(
    act: Act,
    params: base.Params,
    env: VectorEnv,
    key: jax.Array,
    *,
    frame_stack: int,
    num_seeds: int = 1,
    plays: np.ndarray | None = None,
    frames: list[np.ndarray] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Episodes]:
    """Plays one episode in every environment, so that short episodes are not counted more often than long ones.

    An environment whose episode has ended is not stepped any more.

    Args:
      act: from `make_act`, of `num_seeds` seeds.
      params: parameters of the agent; those of several seeds are stacked, `[S, ...]`.
      env: environments that play raw scores and whole games, N for each seed: number n of seed s is `s * N + n`.
      key: PRNG key of the exploration that evaluation keeps; `[S, 2]` for several seeds.
      frame_stack: frames in an observation.
      num_seeds: S.
      plays: `[S]` bool, the seeds that play, of which there is one at least; the others have no episodes. None stands
        for all.
      frames: a list that receives the frames of the first episode, `[H, W, C]` uint8 each.
      stop: called before each step; True ends the evaluation.

    Returns:
      The episodes of each seed. They are those of an evaluation of this seed alone.

    Raises:
      EvaluationStopped: `stop` returned True.
      EnvironmentFailedError: an environment raised an exception.
      InvalidTimeStepError: an environment sent a value that cannot be used.
    """
    step, scores, lengths = 0, np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    truncated, running = np.zeros(env.num_envs, bool), np.ones(env.num_envs, bool)
    if plays is not None:
        running &= np.repeat(plays, env.num_envs // num_seeds)
    seeds = () if num_seeds == 1 else (num_seeds,)  # the program of one seed has no axis of seeds

    def by_seed(x: np.ndarray) -> np.ndarray:
        return x.reshape(*seeds, env.num_envs // num_seeds, *x.shape[1:])

    with status.activity(lambda: f"evaluating: {(~running).sum()} of {running.size} episodes ended in {step:,} steps"):
        with timestep_lib.environment_errors():
            now = env.reset()
        stack = replay.empty_stack(by_seed(now.frame).shape, frame_stack)
        while running.any():
            if stop():
                raise EvaluationStopped
            if frames is not None and running[0]:
                frames.append(now.frame[0])
            # All act, since the shape of a program is fixed; noise and action of one do not depend on the others.
            arrived = TimeStep(*map(by_seed, now))
            action, stack = act(params, stack, arrived, key, np.full(seeds, step, np.int32))
            action = np.asarray(action).reshape(env.num_envs, *env.action_spec.shape)
            with timestep_lib.environment_errors():
                now = env.step(action) if running.all() else env.step_some(action, running)
            step += 1
            scores += np.where(running, now.score, 0.0)
            lengths += running
            truncated |= running & now.last & ~now.terminated
            running &= ~now.last
    episodes = zip(*(np.split(x, num_seeds) for x in (scores, lengths, truncated)), strict=True)
    return [Episodes(*played) for played in episodes]
