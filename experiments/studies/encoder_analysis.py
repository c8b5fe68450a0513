"""What an encoder learns, from the copies of the parameters that a run writes to `params/`.

Draws attention maps, and the similarity of each layer between successive copies. The run must have `params_every` set.
"""

import io
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import imageio.v2 as imageio
import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from experiments.report import styles
from experiments.report.content import Section
from seer_jax import files, replay
from seer_jax.agents import base
from seer_jax.agents.registry import AGENTS
from seer_jax.analysis import activations, attention, svcca
from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.envs.timestep import TimeStep
from seer_jax.run import resolve, run_dir, seed

_MAP_STAGE = "encoder/conv1"  # its maps have the highest resolution
_MAP_TIMES, _MAP_FRAMES = 4, 3
_PIXEL_SCALE = 3  # pixels of the image for each pixel of a frame, which is small
# Each position of a convolution is an input of the similarity, so a fraction of the observations is enough.
_CONVOLUTION_OBSERVATIONS_DIVISOR = 8

ParamsByStep = Mapping[int, base.Params]  # parameters of the agent, by agent step
Similarities = dict[str, list[tuple[int, float]]]  # pairs of agent step and similarity, by layer


class Rollout(NamedTuple):
    """Observations and actions of the evaluation policy.

    Attributes:
      views: `[N, h, w, k * C]` uint8 observations, as the encoder gets them.
      actions: `[N, ...]` actions.
    """

    views: np.ndarray
    actions: np.ndarray


def make_sections(directory: pathlib.Path, *, num_observations: int) -> list[Section]:
    """Returns attention maps and similarities of layers for a report.

    Args:
      directory: of a run with `params_every` set.
      num_observations: on which layers are compared; must be far larger than the number of units of a layer.
    """
    copies, layers = load_params(directory), make_layers(directory)
    newest = copies[max(copies)]
    rollout = collect_rollout(directory, newest, num_observations)
    task = resolve.resolve(run_dir.read_config(directory)).env.task
    untrained = similarities({0: newest, 1: untrained_params(directory)}, layers, rollout)
    baselines = ", ".join(f"{name} {value:.2f}" for name, [(_, value)] in untrained.items())
    return [
        Section(
            f"Attention maps, {task}",
            f"Spatial attention of {_MAP_STAGE.removeprefix('encoder/')} (mean absolute activation over channels,"
            " softmax over positions) on the newest frame, scaled to the minimum and maximum of each map.",
            attention_images(copies, layers, rollout),
        ),
        Section(
            f"Convergence of layers, {task}",
            "SVCCA (99% of the variance, mean correlation) of each layer with the same layer in the next copy of the"
            f" parameters, on {num_observations:,} observations of the last policy. It is near 1 for a layer that has"
            " converged. For comparison, SVCCA of the newest parameters with those of an untrained agent:"
            f" {baselines}.",
            [(directory.name, similarity_image(similarities(copies, layers, rollout)))],
        ),
    ]


def load_params(directory: pathlib.Path) -> dict[int, base.Params]:
    """Returns the copies of the parameters that a run wrote, by agent step, oldest first."""
    copies = sorted((directory / seed.PARAMS_DIRECTORY).iterdir())
    return {int(copy.name): files.load_tree(copy)["params"] for copy in copies}


def untrained_params(directory: pathlib.Path) -> base.Params:
    """Returns the initial parameters of a run's agent for another random seed."""
    config, action_spec = _config_and_action_spec(directory)
    agent = AGENTS[config.agent.name].make_agent(config, action_spec)
    return jax.jit(agent.init)(jax.random.PRNGKey(config.seed + 1)).params


def make_layers(directory: pathlib.Path) -> activations.ActivationsFn:
    """Returns the function that maps parameters of a run, observations and actions to the output of every layer."""
    return activations.make_activations(*_config_and_action_spec(directory))


def collect_rollout(directory: pathlib.Path, params: base.Params, num_observations: int) -> Rollout:
    """Plays episodes in the evaluation environments of a run, with fixed parameters.

    Args:
      directory: of the run.
      params: of its agent.
      num_observations: length of the result.
    """
    config = resolve.resolve(run_dir.read_config(directory))
    env = registry.make_env(config, training=False)
    agent = AGENTS[config.agent.name].make_agent(config, env.action_spec)

    @jax.jit
    def act(stack: jax.Array, timestep: TimeStep, step: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        frame, first = jnp.asarray(timestep.frame), jnp.asarray(timestep.first)
        stack = replay.push_frame(stack, frame, first, first_stack=config.env.first_stack)
        views = agent.view(stack)
        latents = agent.encode(params, views)
        return agent.act_eval(params, latents, jax.random.fold_in(jax.random.PRNGKey(0), step)), views, stack

    timestep, all_views, all_actions = env.reset(), [], []
    stack = replay.empty_stack(timestep.frame.shape, config.env.frame_stack)
    for step in range(-(-num_observations // env.num_envs)):
        actions, views, stack = jax.device_get(act(stack, timestep, step))
        all_views.append(views)
        all_actions.append(actions)
        timestep = env.step(actions)
    env.close()
    return Rollout(np.concatenate(all_views)[:num_observations], np.concatenate(all_actions)[:num_observations])


def similarities(copies: ParamsByStep, layers: activations.ActivationsFn, rollout: Rollout) -> Similarities:
    """Returns SVCCA of each layer in every copy of the parameters with the same layer in the next copy.

    It is NaN where the output of a layer is constant.

    Args:
      copies: parameters by agent step, at least two.
      layers: from `make_layers`.
      rollout: observations and actions on which layers are compared.

    Returns:
      By layer, pairs of the earlier copy's agent step and the similarity.
    """
    found: Similarities = {}
    steps = sorted(copies)
    outputs = _outputs(layers, copies[steps[0]], rollout)
    for step, next_step in itertools.pairwise(steps):
        next_outputs = _outputs(layers, copies[next_step], rollout)
        for name in outputs:
            found.setdefault(name, []).append((step, _svcca(outputs[name], next_outputs[name])))
        outputs = next_outputs
    return found


def similarity_image(similarity: Similarities) -> bytes:
    """Returns a PNG of similarities over agent steps, a line for each layer, those of the encoder first."""
    figure = Figure(figsize=(9, max(4.5, 1 + 0.23 * len(similarity))), layout="constrained")
    ax = figure.subplots()
    for i, name in enumerate(sorted(similarity, key=lambda name: not name.startswith("encoder/"))):
        steps, values = zip(*similarity[name], strict=True)
        ax.plot(steps, values, label=name, lw=1.3, **styles.nth(i).matplotlib)
    ax.set(xlabel="agent steps", ylabel="SVCCA with the next copy")
    ax.set_ylim(max(0.0, ax.get_ylim()[0]), 1.02)
    ax.grid(alpha=0.3)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=4)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def attention_images(
    copies: ParamsByStep, layers: activations.ActivationsFn, rollout: Rollout
) -> Sequence[tuple[str, bytes]]:
    """Returns caption and PNG for some frames, each with the maps of several agent steps side by side."""
    steps = sorted(copies)
    shown_steps = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, _MAP_TIMES).astype(int))]
    chosen = np.linspace(0, len(rollout.views) - 1, _MAP_FRAMES + 1).astype(int)[1:]
    views, actions = jnp.asarray(rollout.views[chosen]), jnp.asarray(rollout.actions[chosen])
    maps = [attention.spatial_attention(layers(copies[step], views, actions)[_MAP_STAGE]) for step in shown_steps]
    caption = f"after {', '.join(f'{step:,}' for step in shown_steps)} agent steps"
    images = []
    for i, view in enumerate(rollout.views[chosen]):
        newest_frame = view[..., -1] if view.shape[-1] % 3 else view[..., -3:]  # grey or colour
        row = np.concatenate([attention.overlay(newest_frame, by_frame[i]) for by_frame in maps], axis=1)
        out = io.BytesIO()
        imageio.imwrite(out, np.kron(row, np.ones((_PIXEL_SCALE, _PIXEL_SCALE, 1), np.uint8)), format="png")
        images.append((caption, out.getvalue()))
    return images


def _config_and_action_spec(directory: pathlib.Path) -> tuple[RunConfig, specs.Array]:
    """Returns the resolved configuration of a run and the specification of its actions."""
    config = resolve.resolve(run_dir.read_config(directory))
    env = registry.make_env(config, training=False)
    env.close()
    return config, env.action_spec


def _outputs(layers: activations.ActivationsFn, params: base.Params, rollout: Rollout) -> dict[str, np.ndarray]:
    """Returns the outputs of every layer, `[inputs, features]`."""
    outputs = jax.device_get(layers(params, jnp.asarray(rollout.views), jnp.asarray(rollout.actions)))
    few = max(1, len(rollout.views) // _CONVOLUTION_OBSERVATIONS_DIVISOR)
    return {
        name: svcca.flatten_positions(x[:few]) if x.ndim == 4 else x.reshape(len(x), -1) for name, x in outputs.items()
    }


def _svcca(x: np.ndarray, y: np.ndarray) -> float:
    try:
        return svcca.svcca(x, y)
    except ValueError:  # the output of a layer is constant, or has more directions than there are observations
        return float("nan")
