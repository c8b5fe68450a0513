"""What each part costs, beside an eager PyTorch twin, the rate of a matrix product, and the same without our habits.

make bench                                               # sets up PyTorch (requirements-bench.txt) and runs this
python -m experiments.benchmark [--quick] [--json=FILE]  # wants a machine with nothing else to do

First twin and agent must agree on losses and gradients for the same weights, batch and noise; then everything is timed
in turns, so that what disturbs one disturbs all. Quick leaves out the IMPALA encoder and takes fewer turns.

A figure is the median over turns, with the least and the greatest; in a turn each side does the work once untimed, so
that it finds neither the other's threads nor the other's caches, and then again and again.
"""

import functools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table
import torch
from absl import flags
from ml_collections import ConfigDict

from configs import curl_dmc, rainbow_atari
from experiments import torch_twin, twin_check
from seer_jax import assembly, cli, handover, phases, replay
from seer_jax import config as config_lib
from seer_jax.agents import curl_networks, rainbow
from seer_jax.envs import registry
from seer_jax.envs.timestep import VectorEnv
from seer_jax.networks import encoders

_ROWS = 2000
_HANDOVER_ROWS = 512
_HANDOVER_BATCH = 32  # rows that the twin encodes together, as our handover does
_MATMUL_SIZE = 2048
_NAIVE = ("rainbow", "curl")  # with IMPALA, gradients of convolutions in a loop take minutes each
_CHECKED = 8  # transitions that twin and agent are compared on
_TOLERANCE = 1e-3  # of the largest entry of a loss or gradient


def cases(*, quick: bool) -> dict[str, ConfigDict]:
    """Returns the paper's settings that are compared, by name."""
    made = {"rainbow": rainbow_atari.get_config(), "curl": curl_dmc.get_config()}
    if not quick:
        made |= {"rainbow_impala": rainbow_atari.get_config(), "curl_impala": curl_dmc.get_config("impala")}
        made["rainbow_impala"].encoder.name = "impala"
        made["rainbow_impala"].replay.allow_more_memory = True
    for config in made.values():
        config.total_steps, config.replay.capacity, config.seer.freeze_step = 2 * _ROWS, _ROWS, _ROWS
    return {name: config_lib.resolve(config) for name, config in made.items()}


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
        return _repeat(seconds, lambda: self._act(agent, params, actor).block_until_ready())

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def _act(self, agent, params, actor: phases.Actor) -> jax.Array:
        return agent.act(params, agent.encode(params, agent.view(actor.stack)), actor.key, actor.steps)

    def twin_act(self, seconds: float) -> list[float]:
        stack = torch.zeros(self.parts.actor.stack.shape, dtype=torch.uint8).permute(0, 3, 1, 2)
        return _repeat(seconds, lambda: self.twins[phases.FULL].act(stack))

    def learn(self, phase: str, seconds: float) -> list[float]:
        def call() -> None:
            out = self.programs[phase].learn(self.states[phase], self.rings[phase])
            self.states[phase], self.rings[phase], _ = jax.block_until_ready(out)

        return [ms / self.parts.updates_per_learn for ms in _repeat(seconds, call)]

    def twin_learn(self, phase: str, seconds: float) -> list[float]:
        def call() -> None:
            for _ in range(self.parts.updates_per_learn):
                self._twin_update(phase)

        return [ms / self.parts.updates_per_learn for ms in _repeat(seconds, call)]

    def interact(self, phase: str, seconds: float) -> list[float]:
        def call() -> None:
            out = self.programs[phase].interact(
                self.states[phase].params, self.actors[phase], self.rings[phase], self.timestep
            )
            _, self.actors[phase], self.rings[phase] = jax.block_until_ready(out)

        return _repeat(seconds, call)

    def twin_interact(self, phase: str, seconds: float) -> list[float]:
        stack = np.zeros(self.parts.actor.stack.shape, np.uint8)
        return _repeat(seconds, lambda: self._twin_interact(phase, stack))

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


def _repeat(seconds: float, call: Callable[[], Any]) -> list[float]:
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


class TwinRing:
    """Rows of one environment in tensors, as users of PyTorch keep and sample them.

    Episodes do not end in it: what is timed is the indexing, which is the same.
    """

    def __init__(self, spec: replay.RingSpec, ring: replay.Ring):
        self.spec, self.at = spec, 0
        rows = jax.device_get(ring.rows)
        # Writable copies; one environment.
        self.observation, self.action, self.reward = (
            torch.tensor(x[:, 0]) for x in (rows.observation, rows.action, rows.reward)
        )

    def add(self, timestep, latents: torch.Tensor | None, action: np.ndarray) -> None:
        """Writes a frame, or the latents of its stack."""
        self.observation[self.at] = torch.from_numpy(timestep.frame[0]) if latents is None else latents
        self.action[self.at] = torch.as_tensor(action[0])
        self.reward[self.at] = float(timestep.reward[0])
        self.at = (self.at + 1) % self.spec.num_steps

    def sample(self, batch_size: int) -> dict[str, torch.Tensor]:
        n, stack = self.spec.n_step, self.spec.stack
        start = torch.randint(max(stack, 1) - 1, self.spec.num_steps - n, (batch_size,))
        rewards = self.reward[start[:, None] + 1 + torch.arange(n)]
        return {
            "obs": self.observe(start),
            "action": self.action[start].long() if self.action.dtype == torch.int32 else self.action[start],
            "reward": rewards @ (self.spec.discount ** torch.arange(n, dtype=torch.float32)),
            "discount": torch.full((batch_size,), self.spec.discount**n),
            "next_obs": self.observe(start + n),
            "weight": torch.ones(batch_size),
        }

    def observe(self, time_index: torch.Tensor) -> torch.Tensor:
        """Returns stacks or latents as the twin takes them."""
        batch, stack = len(time_index), self.spec.stack
        if not stack:
            latents = self.observation[time_index, torch.randint(self.observation.shape[1], (batch,))]
            return latents if latents.shape[1] > 1 else latents[:, 0]
        frames = self.observation[time_index[:, None] + torch.arange(1 - stack, 1)]  # [B, k, H, W, C]
        if frames.shape[-1] == 1:
            return frames[..., 0]  # [B, k, H, W]
        return frames.permute(0, 2, 3, 1, 4).flatten(3)  # [B, H, W, k * C], to be cropped


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


def check(bench: Bench) -> None:
    """Ends the program unless twin and agent agree on losses and gradients, in both phases."""
    for phase in (phases.FULL, phases.FROZEN):
        state = jax.jit(bench.parts.agent.init)(jax.random.PRNGKey(2))
        state = state if phase == phases.FULL else bench.parts.agent.freeze(state)
        spec = bench.parts.spec(phase)
        batch = replay.sample(
            spec, bench.rings[phase], jax.random.PRNGKey(3), batch_size=_CHECKED, importance_exponent=1.0
        )
        found = twin_check.differences(
            bench.config,
            bench.parts.agent,
            state,
            batch,
            boundary_shape(bench.config),
            on_latents=phase == phases.FROZEN,
        )
        if max(found.values()) > _TOLERANCE:
            sys.exit(f"benchmark: the twin does not compute what the agent does in the {phase} phase: {found}")
        print(f"  {phase}: twin and agent agree within {max(found.values()):.0e}", flush=True)


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
        products += _repeat(short, lambda: product(matrix, matrix).block_until_ready())
    return times, 2 * _MATMUL_SIZE**3 / statistics.median(products) / 1e6


def naive_update_ms(name: str) -> dict[str, float]:
    """Times both updates without our habits, in a process of its own; called by `measure_naive`.

    XLA's default kernels for convolutions, convolutions where we have patch products, their gradients in a loop, and
    nothing donated.
    """
    encoders.PatchConv = lambda features, patch, init_fns: nn.Conv(features, (patch, patch), patch, padding="VALID")
    config = cases(quick=False)[name]
    env = registry.make_env(config, training=True)
    parts = assembly.assemble(config, env.action_spec)
    env.close()
    medians = {}
    for phase, update in ((phases.FULL, "full_update"), (phases.FROZEN, "latent_update")):
        state = jax.jit(parts.agent.init)(jax.random.PRNGKey(0))
        state = state if phase == phases.FULL else parts.agent.freeze(state)
        ring = noisy_ring(parts.spec(phase), parts.ring(phase))
        learn = phases.make_learn(
            parts.agent,
            parts.spec(phase),
            phase,
            batch_size=config.agent.batch_size,
            num_updates=parts.updates_per_learn,
            importance_exponent=lambda _: 1.0,
            unroll=False,
        )
        learn = jax.jit(learn)
        took = _repeat(1.0, lambda learn=learn, s=state, r=ring: jax.block_until_ready(learn(s, r)))
        medians[update] = statistics.median(took) / parts.updates_per_learn
    return medians


def measure_naive(name: str) -> dict[str, float]:
    # XLA reads its options when the backend starts: before the package is imported, and so without the package's.
    code = (
        "import jax, json; jax.devices(); from experiments import benchmark;"
        f" print(json.dumps(benchmark.naive_update_ms({name!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_handover(rows: int) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.measure_handover", str(rows)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def summary(times: dict[str, dict[str, list[float]]], matmul_gflops: float, bench: Bench) -> dict[str, dict]:
    """Returns the medians of one setting, as they go into the JSON file."""
    result = {}
    for name, sides in times.items():
        ours, twin = (statistics.median(sides[side]) for side in ("ours", "twin"))
        result[name] = {
            "ms": ours,
            "ms_range": [min(sides["ours"]), max(sides["ours"])],
            "torch_ms": twin,
            "torch_ms_range": [min(sides["twin"]), max(sides["twin"])],
            "speedup": twin / ours,
        }
    for phase, update in ((phases.FULL, "full_update"), (phases.FROZEN, "latent_update")):
        cost = bench.programs[phase].learn_costs["update"] * (1 / bench.parts.updates_per_learn)
        result[update]["mflop"] = cost.flops / 1e6
        result[update]["fraction_of_peak"] = cost.flops / result[update]["ms"] / 1e6 / matmul_gflops
        result[f"end_to_end_{phase}"]["steps_per_second"] = 1e3 / result[f"end_to_end_{phase}"]["ms"]
    result["handover_row"]["rows_per_second"] = 1e3 / result["handover_row"]["ms"]
    result["matmul"] = {"gflops": matmul_gflops}
    result["seer_speedup"] = {
        "update": result["full_update"]["ms"] / result["latent_update"]["ms"],
        "end_to_end": result["end_to_end_full"]["ms"] / result["end_to_end_frozen"]["ms"],
    }
    return result


def print_table(name: str, result: dict[str, dict]) -> None:
    table = rich.table.Table(title=name)
    for column in ("", "ours, ms", "PyTorch, ms", "speedup", "of the matrix-product rate", "without our habits, ms"):
        table.add_column(column, justify="right" if column else "left")
    for label, row in result.items():
        if "torch_ms" not in row:
            continue
        ranges = (
            f"{row[ms]:,.2f} ({row[f'{ms}_range'][0]:,.2f} to {row[f'{ms}_range'][1]:,.2f})"
            for ms in ("ms", "torch_ms")
        )
        fraction = f"{row['fraction_of_peak']:.2f}" if "fraction_of_peak" in row else ""
        naive = f"{row['naive_ms']:,.1f}" if "naive_ms" in row else ""
        table.add_row(label, *ranges, f"{row['speedup']:.2f}", fraction, naive)
    seer = result["seer_speedup"]
    table.caption = (
        f"full against latent: update {seer['update']:.1f}x, agent step {seer['end_to_end']:.2f}x;"
        f" matrix product {result['matmul']['gflops']:.0f} GFLOP/s"
    )
    rich.console.Console(width=140).print(table)


def run(*, quick: bool, json_file: str | None) -> None:
    cli.use_compilation_cache()
    results: dict[str, dict] = {}
    for name, config in cases(quick=quick).items():
        print(name, flush=True)
        bench = Bench(config)
        check(bench)
        turns, seconds = (3, 1.0) if quick else (5, 3.0)
        results[name] = summary(*measure(bench, turns=turns, seconds=seconds), bench)
        bench.env.close()
        del bench
        if name in _NAIVE and not quick:
            for update, ms in measure_naive(name).items():
                results[name][update]["naive_ms"] = ms
        print_table(name, results[name])
    results["memory"] = measure_handover(20_000 if quick else 100_000)
    memory = {name: f"{count / 1e6:,.1f} MB" for name, count in results["memory"].items()}
    print(f"memory of a handover: {memory}")
    if json_file is not None:
        pathlib.Path(json_file).write_text(json.dumps(results, indent=2) + "\n")


def main(argv: list[str]) -> int:
    values = cli.make_flags()
    flags.DEFINE_bool("quick", False, "Fewer turns, no IMPALA encoder.", flag_values=values)
    flags.DEFINE_string("json", None, "File for the figures.", flag_values=values)
    return cli.main(argv, __doc__, values, lambda values: run(quick=values.quick, json_file=values.json))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
