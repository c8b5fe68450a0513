"""Signals of how far an encoder has come, which a run measures as it trains, for a rule that says when to freeze.

An encoder is compared, on states drawn from the replay, with three encoders of the same run: an untrained one, the one
of about half its age, and the one of the previous signal. The drift between two is one minus the centred kernel
alignment of their features. The fit of an encoder is the share of the variance of today's action values that a ridge
regression on its features explains, on states that it was not fitted to.

Measuring changes nothing in a run: it reads parameters and ring, and draws with keys of its own.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seer_jax import replay
from seer_jax.agents import base
from seer_jax.analysis.cka import linear_cka
from seer_jax.seer.phases import Phase

STATES = 512  # on which encoders are compared; half of them for the regression, half to test it
STAGE_STATES = 128  # on which earlier stages are compared, whose outputs are large
UNTRAINED, HALF, PREVIOUS = "untrained", "half", "previous"
_CHUNK = 32  # that are encoded together: a CPU takes three times as long for all of them at once
_RIDGE = 1e-2  # penalty, relative to the mean variance of the states
_SPACING = 1.25  # least ratio of the ages of an encoder and the one after the next that are kept


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
Measure = Callable[[base.Params, References, replay.Ring, jax.Array], dict[str, jax.Array]]


def encoder_of(params: base.Params) -> base.Params:
    """Returns the parts of the parameters that freeze."""
    return {part: params[part] for part in base.ENCODER_PARTS if part in params}


def num_states(phase: Phase) -> int:
    """Returns on how many states encoders are compared: a multiple of the devices that hold the ring."""
    return -(-STATES // phase.ring_spec.num_shards) * phase.ring_spec.num_shards


def make_measure(phase: Phase) -> Measure:
    """Returns the pure function that measures the signals of one seed in the full phase.

    Returns:
      `(params, references, ring, key) -> signals`, each `[]`, by the names that a record of kind `signal` has.
    """
    compare = make_compare(phase.agent, chunk=_CHUNK if phase.ring_spec.num_shards == 1 else num_states(phase))

    def measure(params: base.Params, references: References, ring: replay.Ring, key: jax.Array) -> dict[str, jax.Array]:
        batch = replay.sample(phase.ring_spec, ring, key, batch_size=num_states(phase))
        return compare(params, references, batch.obs)

    return measure


def make_compare(agent: base.Agent, *, chunk: int) -> Callable[..., dict[str, jax.Array]]:
    """Returns `(params, references, observations [B, H, W, C]) -> signals`; see `make_measure`.

    Args:
      agent: the agent.
      chunk: states that are encoded together, a divisor of B.
    """

    def compare(params: base.Params, references: References, obs: jax.Array) -> dict[str, jax.Array]:
        encoders = references._asdict()

        def encode(obs: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            views = agent.view(obs)
            then = {name: agent.encode(params | encoder, views) for name, encoder in encoders.items()}
            return agent.encode(params, views), then

        def outputs(obs: jax.Array) -> list[dict[str, jax.Array]]:
            return [agent.stages(each, agent.view(obs)) for each in (params, params | references.half)]

        chunks = jax.lax.map(encode, obs.reshape(-1, chunk, *obs.shape[1:]))
        latents, then = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), chunks)
        found = {f"drift_{name}": 1.0 - linear_cka(_flat(each), _flat(latents)) for name, each in then.items()}
        if agent.values is not None:
            values = agent.values(params, latents)
            found["fit"] = explained_variance(_flat(latents), values)
            found |= {f"fit_{name}": explained_variance(_flat(each), values) for name, each in then.items()}
        stages, earlier = outputs(obs[:STAGE_STATES])
        for name, output in stages.items():
            found[f"drift_{HALF}_{name}"] = 1.0 - linear_cka(_flat(earlier[name]), _flat(output))
        return found

    return compare


def _flat(features: jax.Array) -> jax.Array:
    return features.reshape(len(features), -1)


def explained_variance(features: jax.Array, values: jax.Array) -> jax.Array:
    """Returns the share of the variance of values that a ridge regression on features explains, `[]`, at most 1.

    It is fitted to the first half of the states and tested on the second.

    Args:
      features: `[B, F]`.
      values: `[B, M]`.
    """
    half, high = len(features) // 2, jax.lax.Precision.HIGHEST
    x, y = features - features[:half].mean(axis=0), values - values[:half].mean(axis=0)
    gram = jnp.matmul(x[:half], x[:half].T, precision=high)
    variance_of_features = jnp.trace(gram) / half
    penalty = jnp.where(variance_of_features > 0, _RIDGE * variance_of_features, 1.0)
    weights = jax.scipy.linalg.solve(gram + penalty * jnp.eye(half), y[:half], assume_a="pos")
    predicted = jnp.matmul(jnp.matmul(x[half:], x[:half].T, precision=high), weights, precision=high)
    variance = jnp.square(y[half:] - y[half:].mean(axis=0)).sum()
    return 1.0 - jnp.square(y[half:] - predicted).sum() / jnp.maximum(variance, jnp.finfo(gram.dtype).tiny)


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


def fields(found: Mapping[str, Any], kept: Encoders, env_steps: int) -> dict[str, float]:
    """Returns the fields of a record of kind `signal`: all that was found but what compares with a stand-in.

    Args:
      found: what `Measure` returned for one seed.
      kept: encoders of earlier signals.
      env_steps: agent steps so far.
    """
    half = half_age(kept, env_steps)
    missing = ([HALF] if half is None else []) + ([] if kept else [PREVIOUS])
    known = {name: float(value) for name, value in found.items() if not any(part in name for part in missing)}
    return known | ({} if half is None else {"half_steps": half})


def keep(kept: Encoders, env_steps: int, encoder: base.Params) -> dict[int, base.Params]:
    """Returns the encoders to keep after a signal: the newest, and those that later signals need for half their age.

    Of the time since half the age as many are kept as give one of two fifths to half the age at any later signal, as
    far as signals are that near to each other.

    Args:
      kept: those that were kept before.
      env_steps: agent steps so far.
      encoder: of now.
    """
    steps = [*kept, env_steps]
    oldest = half_age(steps, env_steps) or steps[0]
    steps = [step for step in steps if step >= oldest]
    spaced = steps[:1]
    for step, following in itertools.pairwise(steps[1:]):
        if following > _SPACING * spaced[-1]:
            spaced.append(step)
    return {step: ({**kept, env_steps: encoder})[step] for step in dict.fromkeys([*spaced, env_steps])}
