"""The loop of a run: steps environments and programs, and keeps the cadences."""

import collections
import contextlib
import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax import evaluate, flops, replay
from seer_jax.agents import base
from seer_jax.envs import atari_scores, registry
from seer_jax.envs import timestep as timestep_lib
from seer_jax.envs.timestep import VectorEnv
from seer_jax.run import assembly, checkpoint, display, metrics, plan, transfer
from seer_jax.seer import handover, phases

PARAMS_DIRECTORY = "params"  # in that of a run
_RECENT_EPISODES = 20
_WARM_UP = "warm-up"


class Stopped(Exception):
    """A run was asked to stop, wrote a checkpoint and did."""


class NotSaved(Exception):
    """The last checkpoint of a run could not be written; those before it are intact."""


class NotFinite(Exception):
    """A loss or a parameter became infinite or no number; the message names the last good checkpoint."""


class Trainer:
    """One run: environments on the host, states on the device, and the counters between them.

    Args:
      parts: of a resolved configuration.
      env: its training environments.
      run_dir: a directory to fill.
      encoder: of another run, to start from; None starts from a new one.
      saved: checkpoint of this run to go on from; None starts from the first step.
      warn: is told, in one line, of what failed without ending the run.
    """

    def __init__(
        self,
        parts: assembly.Assembly,
        env: VectorEnv,
        run_dir: pathlib.Path,
        encoder: base.Params | None,
        saved: checkpoint.Checkpoint | None,
        warn: Callable[[str], None],
    ):
        config = parts.config
        self.assembly, self.config, self.agent, self.env, self.run_dir = parts, config, parts.agent, env, run_dir
        self.warn, self.clock = warn, metrics.Clock()
        self.eval_act = evaluate.make_act(self.agent)
        self.updates_per_learn = parts.updates_per_learn

        k_agent, k_actor, self.k_eval, self.k_freeze = jax.random.split(jax.random.PRNGKey(config.seed), 4)
        self.phase = phases.FULL
        self.timestep = self.env.reset()
        self.env_steps = self.updates = self.rows = 0
        self.checkpoints = 0  # written, or tried
        self.ledger = flops.Ledger()
        self.costs: dict[str, dict] = {}  # by phase
        self.evals: list[dict] = []  # the first and the last
        self.info: base.Info = {}
        self.recent = collections.deque(maxlen=_RECENT_EPISODES)
        self.episode_score = np.zeros(config.num_envs)
        self.episode_steps = np.zeros(config.num_envs, int)
        if saved is None:
            self._begin(k_agent, k_actor, encoder)
        else:
            self._restore(saved)
        self.resumed = saved is not None
        offset = saved.progress["metrics_bytes"] if saved else 0
        self.writer = metrics.MetricsWriter(run_dir, offset=offset, env_steps=self.env_steps)
        self.display = display.Display(config, run_dir)

    def _begin(self, k_agent: jax.Array, k_actor: jax.Array, encoder: base.Params | None) -> None:
        self.state = jax.jit(self.agent.init)(k_agent)
        self.actor = phases.init_actor(k_actor, self.timestep, self.config.env.frame_stack)
        if encoder is not None:
            self.state = transfer.replace_encoder(self.state, encoder)
        if self.config.seer.enabled and self.config.seer.freeze_step == 0:
            self.phase, self.state = phases.FROZEN, self.agent.freeze(self.state)
        self.spec = self.assembly.spec(self.phase)
        self.ring = replay.init(self.spec, self.assembly.rows(self.phase))

    def _progress(self) -> dict:
        """What the host knows of the run, for JSON; the environments are made anew, so nothing of theirs."""
        return {
            "phase": self.phase,
            "env_steps": self.env_steps,
            "updates": self.updates,
            "rows": self.rows,
            "pool": self.checkpoints,
            "metrics_bytes": self.writer.sync(),
            "clock": self.clock.state(),
            "ledger": self.ledger.state(),
            "costs": self.costs,
            "evals": self.evals,
            "info": {name: float(value) for name, value in self.info.items()},
            "recent": list(self.recent),
        }

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        progress = saved.progress
        self.phase, self.checkpoints = progress["phase"], progress["pool"]
        self.env_steps, self.updates, self.rows = (progress[name] for name in ("env_steps", "updates", "rows"))
        self.clock.restore(progress["clock"])
        self.ledger = flops.Ledger(progress["ledger"])
        self.costs, self.evals, self.info = progress["costs"], progress["evals"], progress["info"]
        self.recent.extend(progress["recent"])
        self.spec = self.assembly.spec(self.phase)
        like = {"train": self.assembly.state(self.phase), "actor": self.assembly.actor}
        trees, self.ring = saved.restore(like, self.spec, self.assembly.ring(self.phase))
        self.state, self.actor = trees["train"], trees["actor"]

    def train(self, stop: Callable[[], bool]) -> dict:
        """Runs to `total_steps`, or until `stop`, and returns the final record."""
        config = self.config
        if self.resumed:
            self._write("checkpoint", {})  # the line that came after it
        if self.env_steps < config.total_steps:
            self._compile()
        self.clock.skip()
        if config.params_every and not self.env_steps:
            self._keep_params()
        while self.env_steps < config.total_steps:
            if config.seer.enabled and self.phase == phases.FULL and self.env_steps >= config.seer.freeze_step:
                with self._off_the_clock():
                    self._freeze()
            before, learning, stopping = self.env_steps, self.updates > 0, stop()
            saving = stopping or self._crosses(config.checkpoint_every, self._env_steps_after())
            self._vector_step(renew_envs=saving)
            if self.updates and not learning:
                self.clock.book(_WARM_UP, self.env_steps)
            if self._crossed(config.log_every, before):
                self._log()
            if self._crossed(config.eval_every, before) and self.env_steps < config.total_steps:
                with self._off_the_clock():
                    self._evaluate()
            if self._crossed(config.params_every, before):
                with self._off_the_clock():
                    self._keep_params()
            if saving:
                with self._off_the_clock():
                    self.save()
            if stopping:
                raise Stopped
        with self._off_the_clock():
            if not self.evals or self.evals[-1]["env_steps"] != self.env_steps:
                self._evaluate()
                self.checkpoints += 1
                self.save(last=True)
            return self._end()

    def _crossed(self, every: int, before: int) -> bool:
        """Whether a multiple of `every` lies in (before, now]; 0 has none."""
        return every > 0 and self.env_steps // every > before // every

    def _crosses(self, every: int, after: int) -> bool:
        """Whether a multiple of `every` lies in (now, after]; 0 has none."""
        return every > 0 and after // every > self.env_steps // every

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

    def _vector_step(self, *, renew_envs: bool = False) -> None:
        """Steps all environments once; `learn` runs on the device while they step on the host.

        Args:
          renew_envs: end all episodes here and make new environments, since the old ones' state cannot be saved: what
            comes after a checkpoint is then the same for who goes on and for who resumes.
        """
        if renew_envs:
            self.timestep = timestep_lib.cut(self.timestep)
        # One transfer in and one out, both by name: a transfer guard shows that there are no others.
        timestep = jax.device_put(timestep_lib.check(self.timestep))
        action, self.actor, self.ring = self.programs.interact(self.state.params, self.actor, self.ring, timestep)
        self.env_steps = self._env_steps_after()
        self.rows = min(self.rows + self.config.num_envs, self.spec.capacity)
        self.ledger.add(self.programs.interact_costs)
        updates_due = (self.env_steps - self.config.learn_start) // self.config.update_every
        if updates_due - self.updates >= self.updates_per_learn:
            self.state, self.ring, self.info = self.programs.learn(self.state, self.ring)
            self.updates += self.updates_per_learn
            self.ledger.add(self.programs.learn_costs)
        if renew_envs:
            self._renew_envs()
        else:
            self.timestep = self.env.step(jax.device_get(action))
            self._track_episodes()

    def _env_steps_after(self) -> int:
        """Agent steps once the arrivals at hand are counted; the first of an episode is no consequence of an action."""
        return self.env_steps + int(np.count_nonzero(~self.timestep.first))

    def _renew_envs(self) -> None:
        self.checkpoints += 1
        self.env.close()
        self.env = registry.make_env(self.config, training=True, pool=self.checkpoints)
        self.timestep = self.env.reset()
        self.episode_score[:], self.episode_steps[:] = 0.0, 0

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
        per_step = self.programs.cost_per_step(
            num_envs=self.config.num_envs, steps_per_learn=self.updates_per_learn * self.config.update_every
        )
        self.costs[self.phase] = {
            "flops_per_step": per_step.flops,
            "macs_per_step": per_step.macs,
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
            snapshot_dir=self.run_dir / checkpoint.DIRECTORY / "freeze",
            key=self.k_freeze,
            memory_bytes=plan.device_memory(),
            warn=self.warn,
        )
        jax.block_until_ready(self.ring)
        seconds = self.clock.elapsed - began
        self.spec = latent_spec
        obs = jax.ShapeDtypeStruct((1, *self.actor.stack.shape[1:]), np.uint8)
        encode = functools.partial(base.latents_to_store, self.agent)
        self.ledger.add({"handover": flops.cost_of(encode, self.state.params, obs, self.k_freeze) * rows_before})
        self.phase = phases.FROZEN
        self._compile()
        before = self.costs[phases.FULL]
        self._write(
            "freeze",
            {
                "rows_moved": rows_before,
                "handover_seconds": seconds,
                "replay_bytes_before": before["replay_bytes"],
                "replay_capacity_before": before["replay_capacity"],
            },
        )

    def _evaluate(self) -> None:
        config = self.config
        key = jax.random.fold_in(self.k_eval, self.env_steps)
        # Environments of their own each time: those of an evaluation before could not be had again after a resume.
        env = registry.make_env(config, training=False, pool=self.env_steps)
        try:
            played = evaluate.play(self.eval_act, self.state.params, env, key, frame_stack=config.env.frame_stack)
        finally:
            env.close()
        mean = float(played.scores.mean())
        evaluation = {
            "eval_return_mean": mean,
            "eval_return_std": float(played.scores.std()),
            "eval_returns": played.scores.tolist(),
            "eval_length_mean": float(played.lengths.mean()),
            "human_normalized": atari_scores.human_normalized(config.env.task, mean),
        }
        self.evals = [*self.evals[:1], self._write("eval", evaluation)]

    def _refuse_bad_numbers(self) -> None:
        if self.config.on_nan == "ignore" or _all_finite((self.state.params, self.info)):
            return
        good = checkpoint.newest(self.run_dir / checkpoint.DIRECTORY, self.warn, state_only=True)
        raise NotFinite(
            f"a loss or a parameter is not finite after {self.env_steps:,} agent steps; the last good checkpoint is"
            f" {good.directory if good else 'none'}; lower agent.learning_rate, or go on with on_nan=ignore"
        )

    def _log(self) -> None:
        self._refuse_bad_numbers()
        self._book_time()
        rate = self.clock.steps_per_second(self.phase)
        info = {name: float(value) for name, value in self.info.items()}
        recent = float(np.mean(self.recent)) if self.recent else None
        self._write("train", info | {"steps_per_second": rate, "return_mean": recent} | self.ledger.by_kind())

    def _keep_params(self) -> None:
        """Keeps a copy of the parameters for who looks into the encoder later; no part of the run needs it."""
        directory = self.run_dir / PARAMS_DIRECTORY / f"{self.env_steps:09d}"
        try:
            checkpoint.save_state(directory, {"params": self.state.params})
        except OSError as error:
            self.warn(f"no copy of the parameters after {self.env_steps:,} steps ({error.strerror})")

    def save(self, *, last: bool = False) -> None:
        """Writes a checkpoint; those before it stay until it is complete.

        Args:
          last: no later one will make up for it if it fails.

        Raises:
          NotSaved: the last one failed.
          NotFinite: there is nothing good to save.
        """
        self._refuse_bad_numbers()
        try:
            checkpoint.save(
                self.run_dir / checkpoint.DIRECTORY,
                self.checkpoints,
                progress=self._progress(),
                trees={"train": self.state, "actor": self.actor},
                ring=self.ring,
            )
        except OSError as error:
            told = f"no checkpoint after {self.env_steps:,} steps ({error.strerror}); those before it stay"
            if last:
                raise NotSaved(told) from None
            self.warn(told)
            return
        self._write("checkpoint", {})

    def _end(self) -> dict:
        kept = ("eval_return_mean", "eval_return_std", "eval_length_mean", "human_normalized")
        summary = {name: self.evals[-1][name] for name in kept}
        for phase, cost in self.costs.items():
            summary |= {
                f"{phase}_steps_per_second": self.clock.steps_per_second(phase),
            } | {f"{phase}_{name}": value for name, value in cost.items()}
        checksum = {"params_sha256": checkpoint.params_sha256(self.state.params)}
        record = self._write("end", summary | self.ledger.by_kind() | checksum)
        self.display.end(record, self.evals, list(self.costs))
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
        self.display.show(kind, record)
        return record

    def close(self) -> None:
        self.display.close()
        self.writer.close()
        self.env.close()


@jax.jit
def _all_finite(tree) -> jax.Array:
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()
