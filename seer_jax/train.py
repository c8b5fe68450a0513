"""The command line, and the loop that steps environments, programs and cadences.

python -m seer_jax.train --config=configs/rainbow_atari.py[:PRESET] [--config.FIELD=VALUE] [--run_dir=DIR] [--plan]
"""

import collections
import contextlib
import datetime
import functools
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import rich.console
from absl import flags
from ml_collections import ConfigDict, config_flags

from seer_jax import (
    assembly,
    checkpoint,
    cli,
    evaluate,
    flops,
    handover,
    metrics,
    phases,
    plan,
    replay,
    transfer,
)
from seer_jax import config as config_lib
from seer_jax.agents import base
from seer_jax.envs import atari_scores, registry
from seer_jax.envs.timestep import VectorEnv

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "rlax", "envpool", "numpy")
_RECENT_EPISODES = 20
_WARM_UP = "warm-up"


def run(config: ConfigDict, run_dir: str | pathlib.Path) -> dict:
    """Trains an agent and leaves everything about the run in `run_dir`.

    Args:
      config: like those in `configs/`.
      run_dir: a directory that does not exist yet, or is empty.

    Returns:
      The record of kind `end` in `metrics.jsonl`.

    Raises:
      ConfigError: config or run_dir cannot be used, or the run needs more memory than there is; nothing was written.
      TransferError: the encoder of `seer.init_from` cannot be used.
    """
    config, run_dir = config_lib.resolve(config), pathlib.Path(run_dir)
    if config.seer.init_from is not None:
        transfer.check(config)
    env = registry.make_env(config, training=True)
    try:
        parts = assembly.assemble(config, env.action_spec)
        plan.refuse_if_too_large(config, plan.sizes(parts))
        encoder = None
        if config.seer.init_from is not None:
            encoder = transfer.load_encoder(config, parts.state(phases.FULL).params)
        _start_run_dir(config, run_dir)
        trainer = Trainer(parts, env, run_dir, encoder)
        try:
            return trainer.train()
        finally:
            trainer.close()
    finally:
        env.close()


def _start_run_dir(config: ConfigDict, run_dir: pathlib.Path) -> None:
    """Makes the directory and writes what the run is; raises ConfigError if it cannot."""
    try:
        if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise config_lib.ConfigError(f"run_dir={run_dir} already exists; name a new directory")
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
        (run_dir / "manifest.json").write_text(json.dumps(_manifest(config), indent=2) + "\n")
    except OSError as error:
        raise config_lib.ConfigError(f"run_dir={run_dir} cannot be written: {error.strerror}; name another") from None


class Trainer:
    """One run: environments on the host, states on the device, and the counters between them.

    Args:
      parts: of a resolved configuration.
      env: its training environments.
      run_dir: a directory to fill.
      encoder: of another run, to start from; None starts from a new one.
    """

    def __init__(self, parts: assembly.Assembly, env: VectorEnv, run_dir: pathlib.Path, encoder: base.Params | None):
        config = parts.config
        self.assembly, self.config, self.agent, self.env, self.run_dir = parts, config, parts.agent, env, run_dir
        self.clock = metrics.Clock()
        self.eval_env = registry.make_env(config, training=False)
        self.eval_act = evaluate.make_act(self.agent)
        self.updates_per_learn = parts.updates_per_learn

        k_agent, k_actor, self.k_eval, self.k_freeze = jax.random.split(jax.random.PRNGKey(config.seed), 4)
        self.phase = phases.FULL
        self.timestep = self.env.reset()
        self.state = jax.jit(self.agent.init)(k_agent)
        self.actor = phases.init_actor(k_actor, self.timestep, config.env.frame_stack)
        if encoder is not None:
            self.state = transfer.replace_encoder(self.state, encoder)
        if config.seer.enabled and config.seer.freeze_step == 0:
            self.phase, self.state = phases.FROZEN, self.agent.freeze(self.state)
        self.spec = self.assembly.spec(self.phase)
        self.ring = replay.init(self.spec, self.assembly.rows(self.phase))

        self.env_steps = self.updates = self.rows = 0
        self.ledger = flops.Ledger()
        self.costs: dict[str, dict] = {}  # by phase
        self.evals: list[dict] = []
        self.info: base.Info = {}
        self.recent = collections.deque(maxlen=_RECENT_EPISODES)
        self.episode_score = np.zeros(config.num_envs)
        self.episode_steps = np.zeros(config.num_envs, int)

        self.writer = metrics.MetricsWriter(run_dir)
        self.display = metrics.Display(f"{config.env.task} -> {run_dir}")

    def train(self) -> dict:
        """Runs to `total_steps` and returns the final record."""
        config = self.config
        self._compile()
        self.clock.skip()
        while self.env_steps < config.total_steps:
            if config.seer.enabled and self.phase == phases.FULL and self.env_steps >= config.seer.freeze_step:
                with self._off_the_clock():
                    self._freeze()
            before, learning = self.env_steps, self.updates > 0
            self._vector_step()
            if self.updates and not learning:
                self.clock.book(_WARM_UP, self.env_steps)
            if self._crossed(config.log_every, before):
                self._log()
            if self._crossed(config.eval_every, before) and self.env_steps < config.total_steps:
                with self._off_the_clock():
                    self._evaluate()
            if self._crossed(config.checkpoint_every, before):
                with self._off_the_clock():
                    self.save()
        with self._off_the_clock():
            self._evaluate()
            self.save()
            return self._end()

    def _crossed(self, every: int, before: int) -> bool:
        """Whether a multiple of `every` lies in (before, now]."""
        return self.env_steps // every > before // every

    @contextlib.contextmanager
    def _off_the_clock(self):
        """Books the time so far to the phase, and what happens inside to none."""
        jax.block_until_ready(self.state)
        self._book_time()
        yield
        self.clock.skip()

    def _book_time(self) -> None:
        # Steps before learning starts are fast and of no phase's speed.
        self.clock.book(self.phase if self.updates else _WARM_UP, self.env_steps)

    def _vector_step(self) -> None:
        """Steps all environments once; `learn` runs on the device while they step on the host."""
        # One transfer in and one out, both by name: a transfer guard shows that there are no others.
        timestep = jax.device_put(self.timestep)
        action, self.actor, self.ring = self.programs.interact(self.state.params, self.actor, self.ring, timestep)
        # What an environment sends first is no consequence of an action, and so no agent step.
        self.env_steps += int(np.count_nonzero(~self.timestep.first))
        self.rows = min(self.rows + self.config.num_envs, self.spec.capacity)
        self.ledger.add(self.programs.interact_costs)
        updates_due = (self.env_steps - self.config.learn_start) // self.config.update_every
        if updates_due - self.updates >= self.updates_per_learn:
            self.state, self.ring, self.info = self.programs.learn(self.state, self.ring)
            self.updates += self.updates_per_learn
            self.ledger.add(self.programs.learn_costs)
        self.timestep = self.env.step(jax.device_get(action))
        self._track_episodes()

    def _track_episodes(self) -> None:
        self.episode_score += self.timestep.score
        self.episode_steps += ~self.timestep.first
        for lane in np.flatnonzero(self.timestep.last):
            score, length = float(self.episode_score[lane]), int(self.episode_steps[lane])
            self._write("episode", {"return": score, "length": length})
            self.recent.append(score)
            self.episode_score[lane] = self.episode_steps[lane] = 0

    def _compile(self) -> None:
        """Compiles the programs of the phase that begins."""
        self.programs = self.assembly.compile(self.phase)
        self.costs[self.phase] = {
            "per_step": self.programs.cost_per_step(
                num_envs=self.config.num_envs, steps_per_learn=self.updates_per_learn * self.config.update_every
            ),
            "replay_bytes": self.ring.num_bytes,
            "replay_capacity": self.spec.capacity,
        }

    def _freeze(self) -> None:
        began = self.clock.elapsed
        rows_before = self.rows
        latent_spec = self.assembly.spec(phases.FROZEN)
        self.state, self.ring = handover.freeze(
            self.agent,
            self.state,
            self.spec,
            self.ring,
            latent_spec=latent_spec,
            latent_rows=self.assembly.rows(phases.FROZEN),
            snapshot_dir=self.run_dir / "checkpoints" / "freeze",
            key=self.k_freeze,
        )
        self.spec = latent_spec
        obs = jax.ShapeDtypeStruct((1, *self.actor.stack.shape[1:]), np.uint8)
        encode = functools.partial(base.latents_to_store, self.agent)
        self.ledger.add({"handover": flops.cost_of(encode, self.state.params, obs, self.k_freeze) * rows_before})
        self.phase = phases.FROZEN
        self._compile()
        before, after = self.costs[phases.FULL], self.costs[phases.FROZEN]
        self._write(
            "freeze",
            {
                "rows_moved": rows_before,
                "handover_seconds": self.clock.elapsed - began,
                "replay_bytes_before": before["replay_bytes"],
                "replay_capacity_before": before["replay_capacity"],
            },
        )
        self.display.update(
            phase=self.phase,
            froze=f"{rows_before:,} rows, {before['replay_bytes'] / 1e6:,.0f} MB of frames"
            f" -> {after['replay_bytes'] / 1e6:,.0f} MB of latents",
        )

    def _evaluate(self) -> None:
        config = self.config
        key = jax.random.fold_in(self.k_eval, self.env_steps)
        played = evaluate.play(self.eval_act, self.state.params, self.eval_env, key, frame_stack=config.env.frame_stack)
        mean, std = float(played.scores.mean()), float(played.scores.std())
        evaluation = {
            "eval_return_mean": mean,
            "eval_return_std": std,
            "eval_returns": played.scores.tolist(),
            "eval_length_mean": float(played.lengths.mean()),
            "human_normalized": atari_scores.human_normalized(config.env.task, mean),
        }
        self.evals.append(self._write("eval", evaluation))
        self.display.update(evaluation=f"{mean:,.1f} ± {std:,.1f} after {self.env_steps:,} steps")

    def _log(self) -> None:
        self._book_time()
        rate = self.clock.steps_per_second(self.phase)
        info = {name: float(value) for name, value in self.info.items()}
        recent = float(np.mean(self.recent)) if self.recent else None
        self._write("train", info | {"steps_per_second": rate, "return_mean": recent} | self.ledger.by_kind())
        self.display.update(
            phase=self.phase,
            steps=f"{self.env_steps:,}/{self.config.total_steps:,}",
            steps_per_second=f"{rate:,.0f}" if rate else "-",
            time_left=self._time_left(rate),
            recent_return="-" if recent is None else f"{recent:,.1f}",
            loss=f"{info['loss']:.3f}" if info else "-",
            replay=f"{self.rows:,}/{self.spec.capacity:,} rows, {self.ring.num_bytes / 1e6:,.0f} MB",
        )

    def _time_left(self, rate: float | None) -> str:
        if rate is None:
            return "-"
        seconds = max(self.config.total_steps - self.env_steps, 0) / rate
        return str(datetime.timedelta(seconds=round(seconds)))

    def save(self) -> None:
        """Writes the training state; the one before it stays until the new one is complete."""
        state = {"env_steps": self.env_steps, "updates": self.updates, "train": self.state}
        checkpoint.save_state(self.run_dir / "checkpoints", state)
        self._write("checkpoint", {})

    def _end(self) -> dict:
        config = self.config
        kept = ("eval_return_mean", "eval_return_std", "eval_length_mean", "human_normalized")
        summary = {name: self.evals[-1][name] for name in kept}
        for phase, cost in self.costs.items():
            summary |= {
                f"{phase}_steps_per_second": self.clock.steps_per_second(phase),
                f"{phase}_flops_per_step": cost["per_step"].flops,
                f"{phase}_macs_per_step": cost["per_step"].macs,
                f"{phase}_replay_bytes": cost["replay_bytes"],
                f"{phase}_replay_capacity": cost["replay_capacity"],
            }
        record = self._write("end", summary | self.ledger.by_kind())
        self.display.close()
        console = self.display.console
        console.print(
            metrics.phase_table(f"{config.env.task}, {self.env_steps:,} agent steps", record, list(self.costs))
        )
        reference = atari_scores.REFERENCE_SCORES.get(config.env.task)
        random = f"; random play scores {reference.random:,.1f}" if reference else ""
        first, last = self.evals[0], self.evals[-1]
        console.print(
            f"evaluation of {config.eval_episodes} episodes: {first['eval_return_mean']:,.1f} after"
            f" {first['env_steps']:,} steps, {last['eval_return_mean']:,.1f} ± {last['eval_return_std']:,.1f} after"
            f" {last['env_steps']:,}{random}"
        )
        return record

    def _write(self, kind: str, fields: dict) -> dict:
        total = self.ledger.total
        record = {
            "env_steps": self.env_steps,
            "frames": self.env_steps * self.config.env.action_repeat,
            "updates": self.updates,
            "seconds": round(self.clock.elapsed, 3),
            "phase": self.phase,
            "flops_total": total.flops,
            "macs_total": total.macs,
            "replay_bytes": self.costs[self.phase]["replay_bytes"],
            "replay_capacity": self.spec.capacity,
            "replay_size": self.rows,
        } | fields
        self.writer.write(kind, record)
        return record

    def close(self) -> None:
        self.display.close()
        self.writer.close()
        self.eval_env.close()


def _manifest(config: ConfigDict) -> dict:
    """What a reader needs to know to run this again, apart from the configuration."""
    try:
        here = pathlib.Path(__file__).parent
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        commit = git.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "git_commit": commit,
        "devices": [str(device) for device in jax.devices()],
        "seed": config.seed,
        "protocol": config.env.protocol,
    }


def main(argv: list[str]) -> int:
    values = cli.make_flags()
    config_flags.DEFINE_config_file(
        "config", None, "Configuration file, with :PRESET.", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string("run_dir", None, "New directory for all that the run leaves.", flag_values=values)
    flags.DEFINE_bool("plan", False, "Print what the run will cost and stop.", flag_values=values)
    run_dir = None
    try:
        cli.parse(values, argv)
        if values.help:
            print(__doc__, values.get_help(), sep="\n")
            return 0
        if values.config is None:
            raise cli.UsageError("--config=FILE is missing, for example --config=configs/rainbow_atari.py")
        config = config_lib.resolve(cli.loaded(values.config))
        cli.use_compilation_cache()
        if values.plan:
            plan.show(config)
            return 0
        run_dir = values.run_dir or f"runs/{config.env.task}-{time.strftime('%Y%m%d-%H%M%S')}"
        run(config, run_dir)
    except plan.DoesNotFit as error:
        console = rich.console.Console(stderr=True)
        for table in error.tables:
            console.print(table)
        print(f"train: {error}", file=sys.stderr)
        return 2
    except (cli.UsageError, config_lib.ConfigError, transfer.TransferError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        left = f"; what it wrote stays in {run_dir}" if run_dir and pathlib.Path(run_dir).exists() else ""
        print(f"train: interrupted{left}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
