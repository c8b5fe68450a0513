"""Atari games on EnvPool: the protocols, and the rule for `terminated`.

EnvPool is imported where games are needed, so that programs can be planned and timed without it.
"""

import dataclasses
import functools
import re
from typing import Any

import numpy as np
from dm_env import specs

from seer_jax.envs import timestep

# Identifiers of Gymnasium and of the packages before it, which end in a version and say how frames are skipped.
_IDENTIFIER = re.compile(r"(?:ALE/)?(\w+?)(?:Deterministic|NoFrameskip)?(?:-v\d+)?")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The rules by which games are played.

    Attributes:
      fire_reset: press FIRE at the start of an episode.
      resize: interpolation by which images are scaled: `linear`, or `area` for the mean of the pixels that each covers.
      full_actions: offer all 18 actions instead of those that the game reads.
      sticky_prob: probability that the console repeats the previous action instead of the one sent.
      noop_max: an episode starts with 1 to `noop_max` no-op actions.
      life_loss_terminal: in training, the loss of a life is terminal although the game continues.
      clip_rewards: in training, each step's reward is clipped to [-1, 1].
      max_episode_steps: an episode is truncated after this many agent steps.
    """

    fire_reset: bool
    resize: str
    full_actions: bool
    sticky_prob: float
    noop_max: int
    life_loss_terminal: bool
    clip_rewards: bool
    max_episode_steps: int


RESIZES = ("linear", "area")
PROTOCOLS = {
    "seer": Protocol(
        fire_reset=False,
        resize="linear",
        full_actions=False,
        sticky_prob=0.0,
        noop_max=30,
        life_loss_terminal=True,
        clip_rewards=True,
        max_episode_steps=27_000,
    ),
    # Machado et al. 2018, https://arxiv.org/abs/1709.06009: random actions of the console replace random starts.
    "machado": Protocol(
        fire_reset=False,
        resize="area",
        full_actions=True,
        sticky_prob=0.25,
        noop_max=1,
        life_loss_terminal=False,
        clip_rewards=True,
        max_episode_steps=27_000,
    ),
}


@functools.cache
def games() -> dict[str, str]:
    """Maps each game's snake-case name (`ms_pacman`) to EnvPool's identifier (`MsPacman-v5`)."""
    from envpool.registration import registry

    return {
        kwargs["task"]: name
        for name, (module, _, kwargs) in registry.specs.items()
        if module == "envpool.atari" and name.endswith("-v5")
    }


def game_name(task: str) -> str:
    """Returns the snake-case name of a game, whichever of its usual names is given.

    These are `ms_pacman`, `MsPacman`, and the identifiers of Gymnasium and its predecessors: `MsPacman-v5`,
    `ALE/MsPacman-v5`, `MsPacmanNoFrameskip-v4`.

    Raises:
      KeyError: EnvPool has no such game.
    """
    if task in games():
        return task
    by_identifier = {identifier: name for name, identifier in games().items()}
    match = _IDENTIFIER.fullmatch(task)
    return by_identifier[f"{match[1]}-v5" if match else task]


class AtariEnv:
    """Copies of one game behind `timestep.VectorEnv`."""

    def __init__(
        self,
        task: str,
        *,
        seeds: list[int],
        protocol: Protocol,
        image_size: int,
        action_repeat: int,
        training: bool,
        num_threads: int = 0,
    ) -> None:
        """Builds the pool.

        Args:
          task: a name that `game_name` knows.
          seeds: seed of each environment; their number is E.
          protocol: the rules of the game.
          image_size: height and width of a frame, in pixels.
          action_repeat: emulator frames per agent step; an image is the maximum over the last two, then scaled.
          training: whether the protocol's training-only items (lives, clipping) apply.
          num_threads: emulator threads; 0 lets EnvPool choose.
        """
        import envpool

        self._life_loss_terminal = training and protocol.life_loss_terminal
        self._clip_rewards = training and protocol.clip_rewards
        self._pool = envpool.make_gymnasium(
            games()[game_name(task)],
            num_envs=len(seeds),
            seed=seeds,
            num_threads=num_threads,
            stack_num=1,
            gray_scale=True,
            img_height=image_size,
            img_width=image_size,
            use_inter_area_resize=protocol.resize == "area",
            frame_skip=action_repeat,
            noop_max=protocol.noop_max,
            use_fire_reset=protocol.fire_reset,
            full_action_space=protocol.full_actions,
            repeat_action_probability=protocol.sticky_prob,
            max_episode_steps=protocol.max_episode_steps,
            # EnvPool's own episodic life plays random no-ops after each life. `step` reads the lives instead.
            episodic_life=False,
            reward_clip=False,
        )
        self.num_envs = len(seeds)
        self.action_spec = specs.DiscreteArray(int(self._pool.action_space.n))
        self.frame_shape = (image_size, image_size, 1)

    def reset(self) -> timestep.TimeStep:
        frame, info = self._pool.reset()
        zeros, false = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool)
        self._lives, self._over = info["lives"], false
        return timestep.TimeStep(frame[:, 0, :, :, None], zeros, zeros, false, false, false, first=~false)

    def step(self, action: np.ndarray) -> timestep.TimeStep:
        return self.step_some(action, np.ones(self.num_envs, bool))

    def step_some(self, action: np.ndarray, running: np.ndarray) -> timestep.TimeStep:
        # After `done` EnvPool ignores one action and returns the reset observation with reward 0.
        first = self._over & running
        frame, score, terminated, truncated, info = self._step_pool(np.asarray(action, np.int32), running)
        last = terminated | truncated
        terminated = last & ~truncated
        lives = info["lives"]
        if self._life_loss_terminal:
            terminated |= (lives < self._lives) & (lives > 0) & ~first
        self._lives, self._over = np.where(running, lives, self._lives), np.where(running, last, self._over)
        reward = np.clip(score, -1.0, 1.0) if self._clip_rewards else score
        return timestep.TimeStep(frame[:, 0, :, :, None], reward, score, terminated, truncated, last, first)

    def _step_pool(self, action: np.ndarray, running: np.ndarray) -> tuple[Any, ...]:
        """Steps some of the pool's environments; the values of the others are zeros."""
        if running.all():
            return self._pool.step(action)
        lanes = np.flatnonzero(running).astype(np.int32)
        stepped = self._pool.step(action[running], env_id=lanes)

        def place(x: np.ndarray) -> np.ndarray:
            placed = np.zeros((self.num_envs, *x.shape[1:]), x.dtype)
            placed[running] = x
            return placed

        *arrays, info = stepped
        return *map(place, arrays), {"lives": place(info["lives"])}

    def close(self) -> None:
        self._pool.close()
