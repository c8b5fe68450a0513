"""Signals of how far an encoder has come, which a run measures as it trains.

An encoder is compared, on states drawn from the replay, with two encoders of the same run: an untrained one, and one of
about half its age. The drift between two is one minus the centred kernel alignment of their features. Draws may repeat
a state.

The device finds the products of features, and the host the signals, in float64. Measuring changes nothing in a run: it
reads parameters and ring, and draws with keys of its own.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seer_jax import replay
from seer_jax.agents import base
from seer_jax.analysis.cka import alignment
from seer_jax.seer.phases import Phase

STATES = 512  # on which encoders are compared
STAGE_STATES = 128  # on which earlier stages are compared, whose outputs are large
_CHUNK = 32  # that are encoded together: a CPU takes three times as long for all of them at once
_SPACING = 1.25  # least ratio of the ages of an encoder and the one after the next that are kept
MOST_KEPT = 8  # encoders that are kept at once, at most: with this spacing, from half an age to the age


class References(NamedTuple):
    """The encoders that one is compared with.

    Attributes:
      untrained: the random values that the run begins with, or would without `seer.init_from`.
      half: of about half the age.
    """

    untrained: base.Params
    half: base.Params


Encoders = Mapping[int, base.Params]  # those of earlier signals that are kept, by agent step


class Products(NamedTuple):
    """What the device finds of an encoder on B states, from which `fields` computes signals on the host.

    Attributes:
      now: `[B, B]` products of the centred features of each two states, in an arbitrary unit.
      untrained: the same of `References.untrained`.
      half: the same of `References.half`.
      stages: products of the outputs of earlier stages on some states, of now and of `References.half`, by stage.
    """

    now: jax.Array
    untrained: jax.Array
    half: jax.Array
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
        def encode(obs: jax.Array) -> list[jax.Array]:
            views = agent.view(obs)
            return [agent.encode(params | encoder, views) for encoder in ({}, *references)]

        chunks = jax.lax.map(encode, obs.reshape(-1, chunk, *obs.shape[1:]))
        now, untrained, half = (_products(x.reshape(-1, *x.shape[2:])) for x in chunks)
        few = agent.view(obs[:STAGE_STATES])
        stages, earlier = agent.stages(params, few), agent.stages(params | references.half, few)
        return Products(
            now=now,
            untrained=untrained,
            half=half,
            stages={name: (_products(each), _products(earlier[name])) for name, each in stages.items()},
        )

    return compare


def _products(features: jax.Array) -> jax.Array:
    """Maps `[B, ...]` to `[B, B]`, in a unit in which nothing overflows."""
    x = features.reshape(len(features), -1)
    x = x - x.mean(axis=0)
    x = x / jnp.maximum(jnp.abs(x).max(), jnp.finfo(x.dtype).tiny)
    return jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)  # a TPU would round the features


def half_age(kept: Iterable[int], env_steps: int) -> int | None:
    """Returns the newest of the agent steps in `kept` that is at most half of `env_steps`; None without one."""
    return max((step for step in kept if 2 * step <= env_steps), default=None)


def references(untrained: base.Params, kept: Encoders, env_steps: int) -> References:
    """Returns the encoders to compare with; as long as there is none of half the age, the untrained one."""
    half = half_age(kept, env_steps)
    return References(untrained=untrained, half=untrained if half is None else kept[half])


def fields(found: Products, kept: Encoders, env_steps: int) -> dict[str, float]:
    """Returns the fields of a record of kind `signal`, without those that compare with a stand-in.

    Args:
      found: of one seed, on the host.
      kept: encoders of earlier signals.
      env_steps: agent steps so far.
    """
    drifts = {"drift_untrained": 1 - alignment(found.untrained, found.now)}
    half = half_age(kept, env_steps)
    if half is None:
        return drifts
    drifts |= {"drift_half": 1 - alignment(found.half, found.now)}
    drifts |= {f"drift_half_{stage}": 1 - alignment(*products) for stage, products in found.stages.items()}
    return drifts | {"half_steps": half}


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
