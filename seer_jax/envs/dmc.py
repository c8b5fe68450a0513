"""Tasks of the DeepMind Control suite from pixels, on EnvPool or on the official package.

Action repeat is true repeat: rewards of r control steps are summed, the end of an episode stops the sum, and one image
is rendered after them. EnvPool's own frame skip is different (more physics in a control step, and one reward) and is
not used. In all but a few tasks, episodes end at a time limit, which is a truncation.

EnvPool is imported where tasks are needed, so that programs can be planned and timed without it.
"""

import dataclasses
import functools
import os
import pathlib
import re
import tempfile
from typing import Protocol as Interface

import numpy as np
from dm_env import specs

from seer_jax import envs
from seer_jax.envs import timestep

QUALITIES = ("full", "fast")
_FAST_QUALITY = '<quality shadowsize="0" offsamples="0"/>'
_LARGEST = 1e10  # MuJoCo's largest number; both backends give it as the bound of an actuator that has none


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The rules by which tasks are played.

    Attributes:
      action_repeat: control steps in an agent step, by domain.
      default_action_repeat: control steps in an agent step of the other domains.
      camera_id: camera by domain; 0 for the other domains.
    """

    action_repeat: dict[str, int]
    default_action_repeat: int
    camera_id: dict[str, int]


PROTOCOLS = {
    # The PlaNet benchmark's repeats: Hafner et al. 2019, https://arxiv.org/abs/1811.04551
    "seer": Protocol(
        action_repeat={"cartpole": 8, "finger": 2, "walker": 2}, default_action_repeat=4, camera_id={"quadruped": 2}
    ),
}


class RenderingError(RuntimeError):
    """This machine cannot render; the message says what to install."""


@functools.cache
def tasks() -> dict[str, str]:
    """Maps each task's name (`ball_in_cup-catch`) to EnvPool's identifier (`BallInCupCatch-v1`)."""
    from envpool.mujoco.dmc import registration

    return {f"{domain}-{task}": _identifier(domain, task) for domain, task, _ in registration.dmc_mujoco_envs}


def _identifier(domain: str, task: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in f"{domain}_{task}".split("_")) + "-v1"


def has_bounded_actions(task: str) -> bool:
    """Whether all actuators of a task have bounds, to which actions between -1 and 1 can be scaled; lqr's have none."""
    import envpool

    space = envpool.make_spec(tasks()[task]).action_space
    return bool(np.all(np.abs([space.low, space.high]) < _LARGEST))


def protocol_items(protocol: Protocol, task: str) -> dict[str, int]:
    """Returns the action repeat and the camera of a task under a protocol."""
    domain = task.split("-")[0]
    return {
        "action_repeat": protocol.action_repeat.get(domain, protocol.default_action_repeat),
        "camera_id": protocol.camera_id.get(domain, 0),
    }


@functools.cache
def require_rendering(task: str = "cartpole-swingup", camera_id: int = 0, backend: str = "envpool") -> None:
    """Renders one small image.

    Args:
      task: name of the task.
      camera_id: camera of the task's model.
      backend: package that renders.

    Raises:
      RenderingError: it cannot be rendered.
    """
    fix = (
        "DeepMind Control renders with EGL; install it with a driver, for example"
        " apt-get install libegl1 libgl1-mesa-dri (or the GPU vendor's driver)"
    )
    if not envs.HAS_EGL:
        raise RenderingError(f"libEGL.so.1 is not on this machine: {fix}")
    if not envs.EGL_COMES_FIRST:
        raise RenderingError(
            "envpool was imported before seer_jax, and would abort at its first image; import it after seer_jax"
        )
    try:
        env = BACKENDS[backend](task, seeds=[0], image_size=16, camera_id=camera_id, quality="full")
        env.reset(np.array([0]))
        env.render(np.array([0]))
        env.close()
    except ModuleNotFoundError as error:
        raise RenderingError(
            f"env.backend={backend} is not installed ({error}); pip install --no-deps dm_control==1.0.50 lxml suffices"
        ) from None
    except (IndexError, ValueError) as error:
        raise RenderingError(f"env.camera_id={camera_id} does not show {task}: {error}") from None
    except Exception as error:  # each driver raises errors of its own
        raise RenderingError(f"EGL cannot render on this machine ({error}): {fix}") from None


class _Backend(Interface):
    """Environments that advance by one control step, any of them alone."""

    action_spec: specs.BoundedArray

    def reset(self, lanes: np.ndarray) -> None:
        """Starts an episode in the environments `lanes`, `[M]`."""
        ...

    def step(self, lanes: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Takes a control step in `lanes` and returns reward, terminated and truncated, each `[M]`."""
        ...

    def render(self, lanes: np.ndarray) -> np.ndarray:
        """Returns the images of the environments `lanes`, `[M, H, W, 3]` uint8."""
        ...

    def close(self) -> None:
        """Frees the environments."""
        ...


class DmcEnv:
    """Copies of one task behind `timestep.VectorEnv`."""

    def __init__(
        self,
        task: str,
        *,
        seeds: list[int],
        image_size: int,
        action_repeat: int,
        camera_id: int,
        backend: str = "envpool",
        render_quality: str = "full",
    ) -> None:
        """Builds the environments.

        Args:
          task: a name that `tasks` knows.
          seeds: seed of each environment; their number is E.
          image_size: height and width of a frame, in pixels.
          action_repeat: control steps in an agent step.
          camera_id: camera of the task's model.
          backend: `envpool` or `dm_control`.
          render_quality: `full`, or `fast` without shadows and multisampling, which changes the images.

        Raises:
          RenderingError: the machine cannot render.
        """
        require_rendering()
        self._backend: _Backend = BACKENDS[backend](
            task,
            seeds=seeds,
            image_size=image_size,
            camera_id=camera_id,
            quality=render_quality,
        )
        self._action_repeat = action_repeat
        self.num_envs = len(seeds)
        self.frame_shape = (image_size, image_size, 3)
        real = self._backend.action_spec
        self._center, self._scale = (real.maximum + real.minimum) / 2, (real.maximum - real.minimum) / 2
        self.action_spec = specs.BoundedArray(real.shape, np.float32, minimum=-1.0, maximum=1.0)

    def reset(self) -> timestep.TimeStep:
        self._backend.reset(np.arange(self.num_envs))
        self._over = np.zeros(self.num_envs, bool)
        zeros, false = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool)
        frame = self._backend.render(np.arange(self.num_envs))
        return timestep.TimeStep(frame, zeros, zeros, false, false, false, first=~false)

    def step(self, action: np.ndarray) -> timestep.TimeStep:
        return self.step_some(action, np.ones(self.num_envs, bool))

    def step_some(self, action: np.ndarray, running: np.ndarray) -> timestep.TimeStep:
        first = self._over & running
        reward = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        if first.any():
            self._backend.reset(np.flatnonzero(first))
        action = self._center + self._scale * np.clip(action, -1.0, 1.0).astype(np.float64)
        for _ in range(self._action_repeat):
            lanes = np.flatnonzero(running & ~(first | terminated | truncated))
            if lanes.size == 0:
                break
            earned, terminated[lanes], truncated[lanes] = self._backend.step(lanes, action[lanes])
            reward[lanes] += earned
        last = terminated | truncated
        self._over = np.where(running, last, self._over)
        frame = np.zeros((self.num_envs, *self.frame_shape), np.uint8)
        frame[running] = self._backend.render(np.flatnonzero(running))
        return timestep.TimeStep(frame, reward, reward, terminated, truncated, last, first)

    def close(self) -> None:
        self._backend.close()


class _EnvPool:
    """One pool: physics in its threads, images one after the other."""

    def __init__(self, task: str, *, seeds: list[int], image_size: int, camera_id: int, quality: str) -> None:
        import envpool

        # The pool reads its models once, when it is built.
        with tempfile.TemporaryDirectory(prefix="seer_jax-models-") as directory:
            assets = {"base_path": _fast_assets(pathlib.Path(directory))} if quality == "fast" else {}
            self._pool = envpool.make_gymnasium(
                tasks()[task],
                num_envs=len(seeds),
                seed=seeds,
                render_mode="rgb_array",
                render_width=image_size,
                render_height=image_size,
                render_camera_id=camera_id,
                **assets,
            )
        space = self._pool.action_space
        self.action_spec = specs.BoundedArray(space.shape, space.dtype, space.low, space.high)

    def reset(self, lanes: np.ndarray) -> None:
        self._pool.reset(lanes.astype(np.int32))

    def step(self, lanes: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        _, reward, terminated, truncated, _ = self._pool.step(action, env_id=lanes.astype(np.int32))
        return reward, terminated & ~truncated, truncated

    def render(self, lanes: np.ndarray) -> np.ndarray:
        images = self._pool.render(env_ids=lanes.astype(np.int32))
        assert images is not None  # None in other render modes only
        return images

    def close(self) -> None:
        self._pool.close()


def _fast_assets(directory: pathlib.Path) -> str:
    """Copies EnvPool's models into `directory` with other rendering settings and returns its name."""
    import envpool_assets

    models = pathlib.Path("mujoco") / "assets_dmc"
    source, target = pathlib.Path(envpool_assets.__file__).parent / models, directory / models
    for path in source.rglob("*"):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
        elif path.suffix == ".xml":
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(re.sub(r"<quality [^>]*/>", _FAST_QUALITY, path.read_text()))
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    return str(directory)


class _DmControl:
    """The official package, one environment after the other: slow, and the reference for the other backend."""

    def __init__(self, task: str, *, seeds: list[int], image_size: int, camera_id: int, quality: str) -> None:
        os.environ.setdefault("MUJOCO_GL", "egl")
        from dm_control import suite  # pyright: ignore[reportMissingImports]

        domain, name = task.split("-")
        self._envs = [suite.load(domain, name, task_kwargs={"random": seed}) for seed in seeds]
        for env in self._envs:
            if quality == "fast":
                env.physics.model.vis.quality.shadowsize = env.physics.model.vis.quality.offsamples = 0
        self._render = {"height": image_size, "width": image_size, "camera_id": camera_id}
        self.action_spec = self._envs[0].action_spec()

    def reset(self, lanes: np.ndarray) -> None:
        for lane in lanes:
            self._envs[lane].reset()

    def step(self, lanes: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        steps = [self._envs[lane].step(a) for lane, a in zip(lanes, action, strict=True)]
        reward = np.array([step.reward for step in steps], np.float32)
        last = np.array([step.last() for step in steps])
        terminated = last & np.array([step.discount == 0.0 for step in steps])
        return reward, terminated, last & ~terminated

    def render(self, lanes: np.ndarray) -> np.ndarray:
        return np.stack([self._envs[lane].physics.render(**self._render) for lane in lanes])

    def close(self) -> None:
        for env in self._envs:
            env.close()


BACKENDS = {"envpool": _EnvPool, "dm_control": _DmControl}
