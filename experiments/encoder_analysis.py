"""What the parameters that a run kept in `params/` say of its encoder: attention maps, and how layers settle.

Works on directories of runs with `params_every` set.
"""

import io
import itertools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import imageio.v2 as imageio
import jax
import numpy as np
from dm_env import specs
from matplotlib import colormaps
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments.spec import Section
from seer_jax import replay
from seer_jax.agents import base
from seer_jax.agents.registry import AGENTS
from seer_jax.analysis import activations, attention, svcca
from seer_jax.envs import registry
from seer_jax.run import checkpoint, loop, run_dir
from seer_jax.run import resolve as config_lib
from seer_jax.seer import phases

_MAP_STAGE = "encoder/conv1"  # whose maps are the finest
_MAP_TIMES, _MAP_FRAMES = 4, 3
_SCALE = 3  # a frame is small: repeat its pixels
_CONVOLUTION_SHARE = 8  # of a convolution each position is an input: fewer pictures will do


class Watched(NamedTuple):
    """What the newest parameters of a run see when they play.

    Attributes:
      views: `[N, h, w, k * C]` uint8.
      actions: `[N, ...]`, of the evaluation policy.
    """

    views: np.ndarray
    actions: np.ndarray


def kept_params(directory: pathlib.Path) -> dict[int, base.Params]:
    """Returns the parameters that a run kept, by agent step, oldest first."""
    copies = sorted((directory / loop.PARAMS_DIRECTORY).iterdir())
    return {int(copy.name): checkpoint.load_state(copy)["params"] for copy in copies}


def watch(directory: pathlib.Path, params: base.Params, count: int) -> Watched:
    """Plays with fixed parameters, episode after episode, and returns the first `count` observations."""
    config = config_lib.resolve(run_dir.read_config(directory))
    env = registry.make_env(config, training=False)
    agent = AGENTS[config.agent.name].make_agent(config, env.action_spec)

    @jax.jit
    def act(stack, timestep, step):
        stack = replay.push_frame(stack, timestep.frame, timestep.first)
        views = agent.view(stack)
        latents = agent.encode(params, views)
        return agent.act_eval(params, latents, jax.random.fold_in(jax.random.PRNGKey(0), step)), views, stack

    timestep, views, actions = env.reset(), [], []
    stack = phases.empty_stack(timestep, config.env.frame_stack)
    for step in range(-(-count // env.num_envs)):
        action, seen, stack = jax.device_get(act(stack, timestep, step))
        views.append(seen)
        actions.append(action)
        timestep = env.step(action)
    env.close()
    return Watched(np.concatenate(views)[:count], np.concatenate(actions)[:count])


def analyse(directory: pathlib.Path, *, observations: int) -> list[Section]:
    """Draws what a run's kept parameters say.

    Args:
      directory: of a run with `params_every` set.
      observations: on which layers are compared; far more than a layer's units.
    """
    copies, layers = kept_params(directory), layers_of(directory)
    watched = watch(directory, copies[max(copies)], observations)
    task = run_dir.read_config(directory).env.task
    untrained = similarities({0: copies[max(copies)], 1: _untrained(directory)}, layers, watched)
    floors = ", ".join(f"{name} {value:.2f}" for name, [(_, value)] in untrained.items())
    return [
        Section(
            f"Where the encoder looks, {task}",
            f"Spatial attention of {_MAP_STAGE.removeprefix('encoder/')} (mean absolute activation over channels,"
            " softmax over positions) over the newest frame, from least to most within each map.",
            attention_images(copies, layers, watched),
        ),
        Section(
            f"How layers settle, {task}",
            "SVCCA (99% of the variance, mean correlation) of each layer with itself at the next copy of the"
            f" parameters, on {observations:,} observations of the last policy. A layer that has settled is near 1. How"
            f" much of that says little shows in the newest parameters against an untrained agent's: {floors}.",
            [(f"{directory.name}", similarity_image(similarities(copies, layers, watched)))],
        ),
    ]


def layers_of(directory: pathlib.Path) -> activations.ActivationsFn:
    """Returns what gives every layer's outputs for parameters of a run."""
    return activations.make_activations(*_config_and_actions(directory))


def _config_and_actions(directory: pathlib.Path) -> tuple[ConfigDict, specs.Array]:
    """Returns a run's resolved configuration and the specification of its actions."""
    config = config_lib.resolve(run_dir.read_config(directory))
    env = registry.make_env(config, training=False)
    env.close()
    return config, env.action_spec


def similarities(
    copies: dict[int, base.Params], layers: activations.ActivationsFn, watched: Watched
) -> dict[str, list[tuple[int, float]]]:
    """Returns, for each layer, SVCCA of every copy of the parameters with the next, by the earlier one's agent step.

    Where nothing varies in a layer it is not a number.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    steps = sorted(copies)
    now = _representations(layers, copies[steps[0]], watched)
    for step, next_step in itertools.pairwise(steps):
        later = _representations(layers, copies[next_step], watched)
        for name in now:
            found.setdefault(name, []).append((step, _svcca(now[name], later[name])))
        now = later
    return found


def _untrained(directory: pathlib.Path) -> base.Params:
    """Returns the parameters of a run's agent before any update, from another seed."""
    config, action_spec = _config_and_actions(directory)
    agent = AGENTS[config.agent.name].make_agent(config, action_spec)
    return jax.jit(agent.init)(jax.random.PRNGKey(config.seed + 1)).params


def _representations(layers: activations.ActivationsFn, params: base.Params, watched: Watched) -> dict[str, np.ndarray]:
    """Returns every layer's outputs, `[inputs, features]`."""
    outputs = jax.device_get(layers(params, watched.views, watched.actions))
    few = max(1, len(watched.views) // _CONVOLUTION_SHARE)
    return {
        name: svcca.flatten_positions(x[:few]) if x.ndim == 4 else x.reshape(len(x), -1) for name, x in outputs.items()
    }


def _svcca(x: np.ndarray, y: np.ndarray) -> float:
    try:
        return svcca.svcca(x, y)
    except ValueError:  # a layer that died, or has more directions than there are observations
        return float("nan")


def similarity_image(similarity: dict[str, list[tuple[int, float]]]) -> bytes:
    """Draws similarities over agent steps as PNG, layers from dark to light, the heads' dashed."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    ax = figure.subplots()
    encoder = [name for name in similarity if name.startswith("encoder/")]
    heads = [name for name in similarity if name not in encoder]
    for names, dash, colors in ((encoder, "solid", "viridis"), (heads, "dashed", "autumn")):
        for name, color in zip(names, colormaps[colors](np.linspace(0.0, 0.9, len(names))), strict=True):
            steps, values = zip(*similarity[name], strict=True)
            ax.plot(steps, values, marker=".", ls=dash, color=color, label=name)
    ax.set(xlabel="agent steps", ylabel="SVCCA with the next copy", ylim=(0, 1.02))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return _png(figure)


def attention_images(
    copies: dict[int, base.Params], layers: activations.ActivationsFn, watched: Watched
) -> Sequence[tuple[str, bytes]]:
    """Returns pictures of some frames, each with the maps of several times of training side by side."""
    steps = sorted(copies)
    times = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, _MAP_TIMES).astype(int))]
    chosen = np.linspace(0, len(watched.views) - 1, _MAP_FRAMES + 1).astype(int)[1:]
    views, actions = watched.views[chosen], watched.actions[chosen]
    maps = [attention.spatial_attention(layers(copies[step], views, actions)[_MAP_STAGE]) for step in times]
    pictures = []
    for i, view in enumerate(views):
        frame = view[..., -1] if view.shape[-1] % 3 else view[..., -3:]
        row = np.concatenate([attention.overlay(frame, by_time[i]) for by_time in maps], axis=1)
        out = io.BytesIO()
        imageio.imwrite(out, np.kron(row, np.ones((_SCALE, _SCALE, 1), np.uint8)), format="png")
        pictures.append((f"after {', '.join(f'{step:,}' for step in times)} agent steps", out.getvalue()))
    return pictures


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
