"""Signals of how far an encoder has come, which a run measures as it trains, for a rule that says when to freeze.

An encoder is compared, on states drawn from the replay, with three encoders of the same run: an untrained one, the one
of about half its age, and the one of the previous signal. The drift between two is one minus the centred kernel
alignment of their features. The fit of an encoder is the share of the variance of today's values that a ridge
regression on its features explains, on other draws of states than it was fitted to. Draws may repeat a state.

The device finds the products of features, and the host the signals, in float64. Measuring changes nothing in a run: it
reads parameters and ring, and draws with keys of its own.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from seer_jax import replay
from seer_jax.agents import base
from seer_jax.analysis.cka import alignment
from seer_jax.seer.phases import Phase

STATES = 512  # on which encoders are compared; half of them for the regression, half to test it
STAGE_STATES = 128  # on which earlier stages are compared, whose outputs are large
UNTRAINED, HALF, PREVIOUS = "untrained", "half", "previous"
_CHUNK = 32  # that are encoded together: a CPU takes three times as long for all of them at once
_RIDGE = 1e-2  # penalty, relative to the mean variance of the states
_SPACING = 1.25  # least ratio of the ages of an encoder and the one after the next that are kept
MOST_KEPT = 8  # encoders that are kept at once, at most: with this spacing, from half an age to the age


class References(NamedTuple):
    """The encoders that one is compared with.

    Attributes:
      untrained: the random values that the run begins with, or would without `seer.init_from`.
      half: of about half the age.
      previous: of the previous signal.
    """

    untrained: base.Params
    half: base.Params
    previous: base.Params


Encoders = Mapping[int, base.Params]  # those of earlier signals that are kept, by agent step


class Products(NamedTuple):
    """What the device finds of an encoder on B states, from which `fields` computes signals on the host.

    Attributes:
      now: `[B, B]` products of the centred features of each two states, in an arbitrary unit.
      then: the same of each of the `References`, by name.
      values: `[B, M]`, what the heads say of each state; None for agents without `values`.
      stages: products of the outputs of earlier stages on some states, of now and of `References.half`, by stage.
    """

    now: jax.Array
    then: dict[str, jax.Array]
    values: jax.Array | None
    stages: dict[str, tuple[jax.Array, jax.Array]]


def encoder_of(params: base.Params) -> base.Params:
    """Returns the parts of the parameters that freeze."""
    return {part: params[part] for part in base.ENCODER_PARTS if part in params}


def num_states(phase: Phase) -> int:
    """Returns on how many states encoders are compared: a multiple of the devices that hold the ring."""
    return -(-STATES // phase.ring_spec.num_shards) * phase.ring_spec.num_shards


def make_measure(phase: Phase) -> Callable[[base.Params, References, replay.Ring, jax.Array], Products]:
    """Returns the pure function of one seed in the full phase, `(params, references, ring, key) -> Products`."""
    compare = make_compare(phase.agent, chunk=_CHUNK if phase.ring_spec.num_shards == 1 else num_states(phase))

    def measure(params: base.Params, references: References, ring: replay.Ring, key: jax.Array) -> Products:
        batch = replay.sample(phase.ring_spec, ring, key, batch_size=num_states(phase))
        return compare(params, references, batch.obs)

    return measure


def make_compare(agent: base.Agent, *, chunk: int) -> Callable[[base.Params, References, jax.Array], Products]:
    """Returns `(params, references, observations [B, H, W, C]) -> Products`.

    Args:
      agent: the agent.
      chunk: states that are encoded together, a divisor of B.
    """

    def compare(params: base.Params, references: References, obs: jax.Array) -> Products:
        def encode(obs: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            views = agent.view(obs)
            then = {name: agent.encode(params | each, views) for name, each in references._asdict().items()}
            return agent.encode(params, views), then

        chunks = jax.lax.map(encode, obs.reshape(-1, chunk, *obs.shape[1:]))
        latents, then = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), chunks)
        few = agent.view(obs[:STAGE_STATES])
        stages, earlier = agent.stages(params, few), agent.stages(params | references.half, few)
        return Products(
            now=_products(latents),
            then={name: _products(each) for name, each in then.items()},
            values=None if agent.values is None else agent.values(params, latents),
            stages={name: (_products(each), _products(earlier[name])) for name, each in stages.items()},
        )

    return compare


def _products(features: jax.Array) -> jax.Array:
    """Maps `[B, ...]` to `[B, B]`, in a unit in which nothing overflows."""
    x = features.reshape(len(features), -1)
    x = x - x.mean(axis=0)
    x = x / jnp.maximum(jnp.abs(x).max(), jnp.finfo(x.dtype).tiny)
    return jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)  # a TPU would round the features


def explained_variance(products: ArrayLike, values: ArrayLike) -> float:
    """Returns the share of the variance of values that a ridge regression on features explains, at most 1.

    It is fitted to the first half of the states and tested on the second. It is 0 if the values do not vary.

    Args:
      products: `[B, B]` products of the features of each two states.
      values: `[B, M]`.
    """
    gram, values = np.asarray(products, np.float64), np.asarray(values, np.float64)
    half = len(values) // 2
    to_mean = gram[:, :half].mean(axis=1)  # moves the origin to the mean of the states of the fit
    gram = gram - to_mean - to_mean[:, None] + to_mean[:half].mean()
    mean = values[:half].mean(axis=0)
    penalty = _RIDGE * np.trace(gram[:half, :half]) / half
    variance = np.square(values[half:] - values[half:].mean(axis=0)).sum()
    if not (variance > 0 and penalty > 0):
        return 0.0
    weights = np.linalg.solve(gram[:half, :half] + penalty * np.eye(half), values[:half] - mean)
    return float(1 - np.square(values[half:] - mean - gram[half:, :half] @ weights).sum() / variance)


def half_age(kept: Iterable[int], env_steps: int) -> int | None:
    """Returns the newest of the agent steps in `kept` that is at most half of `env_steps`; None without one."""
    return max((step for step in kept if 2 * step <= env_steps), default=None)


def references(untrained: base.Params, kept: Encoders, env_steps: int) -> References:
    """Returns the encoders to compare with; the untrained one stands in for those that do not exist yet."""
    half = half_age(kept, env_steps)
    return References(
        untrained=untrained,
        half=untrained if half is None else kept[half],
        previous=kept[max(kept)] if kept else untrained,
    )


def fields(found: Products, kept: Encoders, env_steps: int) -> dict[str, float]:
    """Returns the fields of a record of kind `signal`, without those that compare with a stand-in.

    Args:
      found: of one seed, on the host.
      kept: encoders of earlier signals.
      env_steps: agent steps so far.
    """
    half = half_age(kept, env_steps)
    exists = {UNTRAINED: True, HALF: half is not None, PREVIOUS: bool(kept)}
    then = {name: products for name, products in found.then.items() if exists[name]}
    signals = {f"drift_{name}": 1 - alignment(products, found.now) for name, products in then.items()}
    if half is not None:
        signals |= {f"drift_{HALF}_{stage}": 1 - alignment(*products) for stage, products in found.stages.items()}
        signals[f"{HALF}_steps"] = half
    if found.values is not None:
        signals["fit"] = explained_variance(found.now, found.values)
        signals |= {f"fit_{name}": explained_variance(products, found.values) for name, products in then.items()}
    return signals


def keep(kept: Encoders, env_steps: int, encoder: base.Params) -> dict[int, base.Params]:
    """Returns the encoders to keep after a signal: the newest, and those that later signals need for half their age.

    Of the time since half the age as many are kept as give one of two fifths to half the age at any later signal, as
    far as signals are that near to each other.

    Args:
      kept: those that were kept before.
      env_steps: agent steps so far.
      encoder: of now.
    """
    steps = sorted({*kept, env_steps})
    oldest = half_age(steps, env_steps) or steps[0]
    steps = [step for step in steps if step >= oldest]
    spaced = steps[:1]
    for step, following in itertools.pairwise(steps[1:]):
        if following > _SPACING * spaced[-1]:
            spaced.append(step)
    return {step: ({**kept, env_steps: encoder})[step] for step in dict.fromkeys([*spaced, env_steps])}
