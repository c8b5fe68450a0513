"""Small agents of every algorithm, with states as in the middle of training, and random batches for them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from seer_jax import replay
from seer_jax.agents import base, curl, rainbow
from seer_jax.agents.registry import AGENTS
from seer_jax.config import EncoderConfig, ReplayConfig, RunConfig, SeerConfig
from seer_jax.envs.atari_suite import AtariConfig
from seer_jax.envs.dmc_suite import DmcConfig

NUM_ACTIONS, ACTION_SIZE = 3, 2
ACTION_SPECS = {
    "rainbow": specs.DiscreteArray(NUM_ACTIONS),
    "curl_sac": specs.BoundedArray((ACTION_SIZE,), np.float32, -1.0, 1.0),
}
# Both encoders are matrix products, which compile ten times as fast as convolutions. The configurations are complete
# without `resolve`, which wants a machine that can render.
_CONFIGS = {
    "rainbow": RunConfig(
        env=AtariConfig(suite="atari", task="krull", image_size=42, crop_size=42),
        agent=rainbow.RainbowConfig(name="rainbow", hidden=16, target_update_every=3, learning_rate=1e-3, n_step=3),
        encoder=EncoderConfig(name="data_efficient"),
        replay=ReplayConfig(),
        seer=SeerConfig(freeze_step=50_000, freeze_through="conv2", replay_ratio=1.0, reset_heads_every=0),
    ),
    "curl_sac": RunConfig(
        env=DmcConfig(suite="dmc", task="cartpole-swingup", image_size=34, crop_size=30, action_repeat=8, camera_id=0),
        agent=curl.CurlConfig(name="curl_sac", hidden=8, latent_size=6, random_steps=10),
        encoder=EncoderConfig(name="data_efficient"),
        replay=ReplayConfig(),
        seer=SeerConfig(
            freeze_step=50_000, freeze_through="dense", num_copies=4, replay_ratio=1.0, reset_heads_every=0
        ),
    ),
}
_FRAME_CHANNELS = {"rainbow": 1, "curl_sac": 3}


class SmallAgent(NamedTuple):
    """An agent with what tests need beside it.

    Attributes:
      config: its configuration.
      action_spec: action of one environment.
      agent: its functions.
      full_updates: compiled updates of the full phase, as `at_every_step` gives them.
      frozen_updates: those of the frozen phase.
      state: of the full phase; see `trained_state`.
    """

    config: RunConfig
    action_spec: specs.Array
    agent: base.Agent
    full_updates: tuple[Callable, ...]
    frozen_updates: tuple[Callable, ...]
    state: base.TrainState


def replaced(config: RunConfig, **changes: Any) -> RunConfig:
    """Returns a configuration with other values; `changes` are by dotted name, dots as __."""
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        if section:
            field, value = section, dataclasses.replace(getattr(config, section), **{field: value})
        config = dataclasses.replace(config, **{field: value})
    return config


def small_config(name: str, **changes: Any) -> RunConfig:
    """Returns the configuration of a small agent; `changes` as in `replaced`."""
    return replaced(_CONFIGS[name], **changes)


@functools.cache
def make(name: str, **changes: Any) -> SmallAgent:
    """Returns the small agent of an algorithm; `changes` as in `replaced`."""
    config = small_config(name, **changes)
    agent = AGENTS[name].make_agent(config, ACTION_SPECS[name])
    full_updates, frozen_updates = (
        tuple(jax.jit(at_every_step(update)) for update in learner.updates) for learner in (agent.full, agent.frozen)
    )
    return SmallAgent(config, ACTION_SPECS[name], agent, full_updates, frozen_updates, trained_state(agent))


def at_every_step(update: base.Update) -> Callable[[base.TrainState, replay.Batch], tuple]:
    """Returns an update as a function of state and batch: one is made at each agent step, from the first on."""
    return lambda state, batch: update(state, batch, base.Steps(state.updates, state.updates + 1))


def trained_state(agent: base.Agent) -> base.TrainState:
    """Returns a state as in the middle of training.

    Parameters differ from their targets. Adam's second moments are 1e-4: the first step of a new optimizer is the sign
    of each gradient, also of one that consists of rounding errors, and programs that round differently would step in
    opposite directions. With these moments a step is proportional to a small gradient.
    """

    def settled(opt_state: Any) -> Any:
        adam, *rest = opt_state
        moments = jax.tree.map(lambda x: jnp.full_like(x, 1e-4), adam.nu)
        return adam._replace(count=jnp.int32(10_000), nu=moments), *rest

    def init(key: jax.Array) -> base.TrainState:
        state = agent.init(key)
        return state.replace(
            params=jax.tree.map(lambda x: 1.01 * x + 0.01, state.params),
            opt_state={part: settled(opt_state) for part, opt_state in state.opt_state.items()},
        )

    return jax.jit(init)(jax.random.PRNGKey(0))


def gradients(before: base.TrainState, after: base.TrainState, b1: float = 0.9) -> base.Params:
    """Returns the gradients that an update gave Adam, by part, from the first moments on both sides of it."""

    def gradient(old: jax.Array, new: jax.Array) -> np.ndarray:
        return (np.asarray(new) - b1 * np.asarray(old)) / (1 - b1)

    return {
        part: jax.tree.map(gradient, before.opt_state[part][0].mu, opt_state[0].mu)
        for part, opt_state in after.opt_state.items()
    }


def random_batch(name: str, size: int = 8, seed: int = 0) -> replay.Batch:
    """Returns transitions of random images, some of them terminal."""
    config, rng = _CONFIGS[name], np.random.default_rng(seed)
    pixels, channels = config.env.image_size, _FRAME_CHANNELS[name] * config.env.frame_stack
    stacks = rng.integers(0, 255, (2, size, pixels, pixels, channels)).astype(np.uint8)
    spec = ACTION_SPECS[name]
    if name == "rainbow":
        action = jnp.asarray(rng.integers(0, spec.num_values, size), jnp.int32)
    else:
        action = jnp.asarray(rng.uniform(-1, 1, (size, *spec.shape)), jnp.float32)
    return replay.Batch(
        obs=jnp.asarray(stacks[0]),
        action=action,
        reward=jnp.asarray(rng.normal(size=size), jnp.float32),
        discount=jnp.asarray(rng.choice([0.0, 0.9], size), jnp.float32),
        next_obs=jnp.asarray(stacks[1]),
        weight=jnp.asarray(rng.uniform(0.1, 1, size), jnp.float32),
        start=jnp.arange(size),
    )


@functools.cache
def encode_program(agent: base.Agent) -> Any:
    """Returns the compiled `(params, obs) -> latents` of what an agent acts on."""
    return jax.jit(lambda params, obs: agent.encode(params, agent.view(obs)))


def encoded(agent: base.Agent, params: base.Params, batch: replay.Batch) -> replay.Batch:
    """Returns a batch with its observations replaced by their latents."""
    encode = encode_program(agent)
    return batch.replace(obs=encode(params, batch.obs), next_obs=encode(params, batch.next_obs))


def equal(a: Any, b: Any) -> bool:
    """Returns whether two trees are the same bit for bit."""
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def assert_close(actual: Any, desired: Any, **tolerance: float) -> None:
    """Compares two trees leaf by leaf."""
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), actual, desired)


def assert_gradients_equal(actual: Any, desired: Any, rtol: float = 1e-4) -> None:
    """Compares two trees; each array may differ by `rtol` of its largest entry, since a sum rounds with its terms."""

    def compare(a: np.ndarray, b: np.ndarray) -> None:
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())

    jax.tree.map(compare, actual, desired)
