"""Time of one full and of one latent update, sampling included, with nothing else running.

python -m experiments.update_time --config=configs/curl_dmc.py
python -m experiments.update_time --config=configs/curl_dmc.py:impala
python -m experiments.update_time --config=configs/rainbow_atari.py
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict, config_flags

from seer_jax import cli, handover, phases, replay
from seer_jax import config as config_lib
from seer_jax.agents.registry import AGENTS
from seer_jax.envs import registry

_ROWS = 2000
_CALLS = 11


def random_ring(spec: replay.RingSpec, ring: replay.Ring) -> replay.Ring:
    """Fills a ring with noise, all of it sampleable."""
    rng = np.random.default_rng(0)
    shape, dtype = ring.rows.observation.shape, ring.rows.observation.dtype
    stored = rng.integers(0, 256, shape, np.uint8) if dtype == np.uint8 else rng.normal(size=shape)
    rows = ring.rows.replace(observation=jnp.asarray(stored, dtype))
    ring = ring.replace(rows=rows, written=jnp.int32(spec.num_steps))
    return replay.restore_priorities(spec, ring, jnp.ones((spec.num_steps, spec.num_envs)))


def milliseconds(learn, state, ring, num_updates: int) -> list[float]:
    """Returns the time of an update in each of several calls of a program that consumes its arguments."""
    times = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        state, ring, _ = jax.block_until_ready(learn(state, ring))
        times.append(1e3 * (time.perf_counter() - began) / num_updates)
    return times[1:]


def measure(config: ConfigDict) -> dict[str, list[float]]:
    """Returns milliseconds of updates by phase."""
    config = config_lib.resolve(config)
    env = registry.make_env(config, training=True)
    agent, timestep, action = (
        AGENTS[config.agent.name].make_agent(config, env.action_spec),
        env.reset(),
        env.action_spec,
    )
    env.close()
    state = jax.jit(agent.init)(jax.random.PRNGKey(0))
    spec = replay.RingSpec(
        num_steps=_ROWS,
        num_envs=config.num_envs,
        stack=config.env.frame_stack,
        n_step=config.agent.n_step,
        discount=config.agent.discount,
    )
    frames = jax.ShapeDtypeStruct(timestep.frame.shape, np.uint8)
    actions = jax.ShapeDtypeStruct((config.num_envs, *action.shape), action.dtype)
    actor = phases.init_actor(jax.random.PRNGKey(1), timestep, config.env.frame_stack)
    times = {}
    for phase in (phases.FULL, phases.FROZEN):
        if phase == phases.FULL:
            ring = replay.init(spec, replay.row_shapes(frames, actions))
        else:
            state = agent.freeze(jax.jit(agent.init)(jax.random.PRNGKey(0)))
            spec, ring = handover.latent_ring_for(
                agent, state, spec, frames.shape, actions, capacity=_ROWS, latent_dtype=config.replay.latent_dtype
            )
        num_updates = max(len(agent.updates), config.num_envs // config.update_every)
        programs = phases.compile_programs(
            agent,
            spec,
            phase,
            state=state,
            actor=actor,
            ring=ring,
            timestep=timestep,
            batch_size=config.agent.batch_size,
            num_updates=num_updates,
            importance_exponent=optax.constant_schedule(1.0),
        )
        times[phase] = milliseconds(programs.learn, state, random_ring(spec, ring), num_updates)
    return times


def main(argv: list[str]) -> int:
    values = cli.make_flags()
    config_flags.DEFINE_config_file("config", None, "Configuration file.", flag_values=values, sys_argv=argv)
    try:
        cli.parse(values, argv)
        if values.help:
            print(__doc__, values.get_help(), sep="\n")
            return 0
        if values.config is None:
            raise cli.UsageError("--config=FILE is missing, for example --config=configs/curl_dmc.py")
        times = measure(cli.loaded(values.config))
    except (cli.UsageError, config_lib.ConfigError) as error:
        print(f"update_time: {error}", file=sys.stderr)
        return 2
    for phase, ms in times.items():
        print(f"{phase} update: median {statistics.median(ms):.1f} ms, {min(ms):.1f} to {max(ms):.1f}")
    full, frozen = (statistics.median(ms) for ms in times.values())
    print(f"ratio {full / frozen:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
