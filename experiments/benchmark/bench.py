"""Our programs and the twin's, set up alike and timed in turns.

A figure is the median over turns, with the least and the greatest; in a turn each side does the work once untimed, so
that it finds neither the other's threads nor the other's caches, and then again and again.
"""

import functools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ml_collections import ConfigDict

from experiments.benchmark import torch_twin
from experiments.benchmark.twin_ring import TwinRing
from seer_jax import replay
from seer_jax.agents import curl_networks, rainbow
from seer_jax.envs import registry
from seer_jax.envs.timestep import VectorEnv
from seer_jax.run import assembly
from seer_jax.seer import handover, phases

_HANDOVER_ROWS = 512
_HANDOVER_BATCH = 32  # rows that the twin encodes together, as our handover does
_MATMUL_SIZE = 2048


class Bench:
    """One setting: our programs, the twin, and one environment for both.

    Attributes:
      config: a resolved configuration.
      env: training environments.
      parts: our agent and its shapes.
      programs: by phase.
      states: of learning, by phase.
      rings: full of noise, by phase.
      actors: by phase.
      twins: by phase.
    """

    def __init__(self, config: ConfigDict):
        self.config = config
        self.env: VectorEnv = registry.make_env(config, training=True)
        self.parts = assembly.assemble(config, self.env.action_spec)
        self.timestep = self.env.reset()
        agent, parts = self.parts.agent, self.parts
        self.programs, self.states, self.rings, self.actors, self.twins, self.twin_rings = {}, {}, {}, {}, {}, {}
        for phase in (phases.FULL, phases.FROZEN):
            state = jax.jit(agent.init)(jax.random.PRNGKey(0))
            state = state if phase == phases.FULL else agent.freeze(state)
            self.twins[phase] = torch_twin.make_twin(
                config, state.params, boundary_shape(config), on_latents=phase == phases.FROZEN
            )
            self.states[phase] = state
            self.rings[phase] = noisy_ring(parts.spec(phase), parts.ring(phase))
            self.twin_rings[phase] = TwinRing(parts.spec(phase), self.rings[phase])
            self.actors[phase] = phases.init_actor(jax.random.PRNGKey(1), self.timestep, config.env.frame_stack)
            self.programs[phase] = parts.compile(phase)

    def act(self, seconds: float) -> list[float]:
        """Returns milliseconds of encoding and choosing an action, without the ring.

        The other methods that take `seconds` return milliseconds of their work likewise, and go on for that long.
        """
        agent, params, actor = self.parts.agent, self.states[phases.FULL].params, self.actors[phases.FULL]
        return repeat(seconds, lambda: self._act(agent, params, actor).block_until_ready())

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def _act(self, agent, params, actor: phases.Actor) -> jax.Array:
        return agent.act(params, agent.encode(params, agent.view(actor.stack)), actor.key, actor.steps)

    def twin_act(self, seconds: float) -> list[float]:
        stack = torch.zeros(self.parts.actor.stack.shape, dtype=torch.uint8).permute(0, 3, 1, 2)
        return repeat(seconds, lambda: self.twins[phases.FULL].act(stack))

    def learn(self, phase: str, seconds: float) -> list[float]:
        def call() -> None:
            out = self.programs[phase].learn(self.states[phase], self.rings[phase])
            self.states[phase], self.rings[phase], _ = jax.block_until_ready(out)

        return [ms / self.parts.updates_per_learn for ms in repeat(seconds, call)]

    def twin_learn(self, phase: str, seconds: float) -> list[float]:
        def call() -> None:
            for _ in range(self.parts.updates_per_learn):
                self._twin_update(phase)

        return [ms / self.parts.updates_per_learn for ms in repeat(seconds, call)]

    def interact(self, phase: str, seconds: float) -> list[float]:
        def call() -> None:
            out = self.programs[phase].interact(
                self.states[phase].params, self.actors[phase], self.rings[phase], self.timestep
            )
            _, self.actors[phase], self.rings[phase] = jax.block_until_ready(out)

        return repeat(seconds, call)

    def twin_interact(self, phase: str, seconds: float) -> list[float]:
        stack = np.zeros(self.parts.actor.stack.shape, np.uint8)
        return repeat(seconds, lambda: self._twin_interact(phase, stack))

    def steps(self, phase: str, seconds: float) -> list[float]:
        """Times agent steps on the real environment, with their updates, in whole cycles."""
        programs, config = self.programs[phase], self.config
        steps_per_learn = self.parts.updates_per_learn * config.update_every

        def cycle() -> None:
            for begun in range(0, steps_per_learn, config.num_envs):
                action, self.actors[phase], self.rings[phase] = programs.interact(
                    self.states[phase].params, self.actors[phase], self.rings[phase], self.timestep
                )
                if begun + config.num_envs >= steps_per_learn:  # goes on while the environments step
                    self.states[phase], self.rings[phase], _ = programs.learn(self.states[phase], self.rings[phase])
                self.timestep = self.env.step(np.asarray(action))

        return [_rate(seconds, cycle, lambda: jax.block_until_ready(self.states[phase])) / steps_per_learn]

    def twin_steps(self, phase: str, seconds: float) -> list[float]:
        steps_per_learn = self.parts.updates_per_learn * self.config.update_every
        stack = np.zeros(self.parts.actor.stack.shape, np.uint8)
        channels = self.timestep.frame.shape[-1]

        def cycle() -> None:
            nonlocal stack
            for _ in range(0, steps_per_learn, self.config.num_envs):
                stack = np.concatenate([stack[..., channels:], self.timestep.frame], -1)
                self.timestep = self.env.step(self._twin_interact(phase, stack))
            for _ in range(self.parts.updates_per_learn):
                self._twin_update(phase)

        return [_rate(seconds, cycle, lambda: None) / steps_per_learn]

    def handover(self, seconds: float) -> list[float]:
        """Times a handover, a row, with the snapshot that it writes and reads back."""
        del seconds  # one is long enough
        parts, full, frozen = self.parts, phases.FULL, phases.FROZEN
        ring = noisy_ring(parts.spec(full), parts.ring(full)).replace(written=jnp.int32(_HANDOVER_ROWS))
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as directory:
            _, ring = handover.freeze(
                parts.agent,
                self.states[full],
                parts.spec(full),
                ring,
                latent_spec=parts.spec(frozen),
                latent_rows=parts.rows(frozen),
                snapshot_dir=pathlib.Path(directory),
                key=jax.random.PRNGKey(0),
            )
            jax.block_until_ready(ring)
            return [1e3 * (time.perf_counter() - began) / _HANDOVER_ROWS]

    def twin_handover(self, seconds: float) -> list[float]:
        """Times the encoding of stored frames alone: the twin has no snapshot."""
        del seconds
        ring, twin = self.twin_rings[phases.FULL], self.twins[phases.FROZEN]
        latents = torch.zeros_like(self.twin_rings[phases.FROZEN].observation)
        began = time.perf_counter()
        for rows in torch.split(torch.arange(ring.spec.stack, ring.spec.stack + _HANDOVER_ROWS), _HANDOVER_BATCH):
            latents[rows] = twin.store(ring.observe(rows))
        return [1e3 * (time.perf_counter() - began) / _HANDOVER_ROWS]

    def _twin_interact(self, phase: str, stack: np.ndarray) -> np.ndarray:
        action, latents = self.twins[phase].act(torch.from_numpy(stack).permute(0, 3, 1, 2))
        self.twin_rings[phase].add(self.timestep, latents, action)
        return action

    def _twin_update(self, phase: str) -> None:
        self.twins[phase].update(self.twin_rings[phase].sample(self.config.agent.batch_size))


def repeat(seconds: float, call: Callable[[], Any]) -> list[float]:
    """Returns milliseconds of each call, the untimed first left out."""
    call()
    took, end = [], time.perf_counter() + seconds
    while not took or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        took.append(1e3 * (time.perf_counter() - began))
    return took


def _rate(seconds: float, call: Callable[[], None], finish: Callable[[], Any]) -> float:
    """Returns milliseconds of a call among many, the next of which may begin before the one before it has ended."""
    call()
    finish()
    began, count = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        call()
        count += 1
    finish()
    return 1e3 * (time.perf_counter() - began) / count


def measure(bench: Bench, *, turns: int, seconds: float) -> tuple[dict[str, dict[str, list[float]]], float]:
    """Measures in turns.

    Args:
      bench: what is measured.
      turns: medians that are taken.
      seconds: how long each work goes on in a turn; a tenth of that for what is short.

    Returns:
      Milliseconds of ours and of the twin by kind of work, a median for each turn; and the rate of a float32 matrix
      product in GFLOP/s.
    """
    short = seconds / 10
    works = {"act": (bench.act, bench.twin_act, (short,))}
    for phase, update in ((phases.FULL, "full_update"), (phases.FROZEN, "latent_update")):
        works |= {
            f"interact_{phase}": (bench.interact, bench.twin_interact, (phase, short)),
            update: (bench.learn, bench.twin_learn, (phase, short)),
            f"end_to_end_{phase}": (bench.steps, bench.twin_steps, (phase, seconds)),
        }
    works["handover_row"] = (bench.handover, bench.twin_handover, (short,))
    matrix, product = jnp.ones((_MATMUL_SIZE, _MATMUL_SIZE), jnp.float32), jax.jit(jnp.matmul)
    bench.handover(short)  # compiles
    times, products = {name: {"ours": [], "twin": []} for name in works}, []
    for _ in range(turns):
        for name, (ours, twin, arguments) in works.items():
            for side, work in (("ours", ours), ("twin", twin)):
                times[name][side].append(statistics.median(work(*arguments)))
        products += repeat(short, lambda: product(matrix, matrix).block_until_ready())
    return times, 2 * _MATMUL_SIZE**3 / statistics.median(products) / 1e6


def boundary_shape(config: ConfigDict) -> tuple[int, int, int]:
    """Returns the shape of the last convolution's output."""
    if config.agent.name == "rainbow":
        return rainbow.Networks(config, num_actions=1).boundary_shape
    return curl_networks.Networks(config, action_size=1).boundary_shape


def noisy_ring(spec: replay.RingSpec, shapes: replay.Ring) -> replay.Ring:
    """Returns a ring full of noise, all of it sampleable."""
    rng = np.random.default_rng(0)

    def fill(x):
        if x.dtype == np.uint8:
            return jnp.asarray(rng.integers(0, 256, x.shape, np.uint8))
        return jnp.asarray(rng.normal(size=x.shape), x.dtype)

    rows = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.rows)
    rows = rows.replace(observation=fill(shapes.rows.observation), reward=fill(shapes.rows.reward))
    ring = replay.init(spec, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes.rows))
    ring = ring.replace(rows=rows, written=jnp.int32(spec.num_steps))
    return replay.restore_priorities(spec, ring, jnp.ones((spec.num_steps, spec.num_envs)))
