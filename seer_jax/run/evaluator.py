"""The evaluations of a run in its course: those of all its seeds at once, on one host or several."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np

from seer_jax.agents import base
from seer_jax.run import evaluation
from seer_jax.run.assembly import Assembly
from seer_jax.run.evaluation import EvaluationStopped
from seer_jax.run.seed import Keys, configs_of
from seer_jax.seer.hosts import Hosts

_STEPS_PER_EXCHANGE = 64  # between two questions to the other hosts whether to stop


class Evaluator:
    """Plays evaluations with the parameters of a run.

    Args:
      parts: the assembly of the run.
      hosts: its hosts.
    """

    def __init__(self, parts: Assembly, hosts: Hosts) -> None:
        self._config, self._place, self._hosts = parts.config, parts.placement, hosts
        self._keys = [Keys(config.seed) for config in configs_of(parts.config)]
        self._act = evaluation.make_act(
            parts.agent, first_stack=parts.config.env.first_stack, map_seeds=parts.placement.here.map_seeds
        )

    def play(
        self, params: base.Params, env_steps: Mapping[int, int], stop: Callable[[], bool]
    ) -> dict[int, evaluation.Episodes]:
        """Plays the episodes of an evaluation; the host of a seed's first environment plays those of this seed.

        Args:
          params: parameters of all seeds.
          env_steps: for each seed that plays, by number from 0 on, its agent steps so far.
          stop: called before each step; True on any host ends the evaluation on all.

        Returns:
          The episodes of each seed that plays, the same on all hosts.

        Raises:
          EvaluationStopped: `stop` returned True.
          EnvironmentFailedError: an environment raised an exception.
          InvalidTimeStepError: an environment sent a value that cannot be used.
        """
        place, numbers = self._place, self._place.seeds_here
        mine = [i for i in env_steps if i in place.seeds_first_here]
        steps = [env_steps.get(i, 0) for i in numbers]
        keys = [jax.random.fold_in(self._keys[i].eval, count) for i, count in zip(numbers, steps, strict=True)]

        def play_here(stop: Callable[[], bool]) -> list[tuple[int, evaluation.Episodes]]:
            if not mine:
                return []
            played = evaluation.play_new(
                dataclasses.replace(self._config, seed=self._config.seed + numbers.start),
                self._act,
                place.local(params),
                place.here.stack(keys, lanes=False),
                env_steps=steps,
                plays=np.isin(numbers, mine),
                stop=stop,
            )
            return [(i, episodes) for i, episodes in zip(numbers, played, strict=True) if i in mine]

        found = self._hosts.apart(play_here, stop, EvaluationStopped, _STEPS_PER_EXCHANGE)
        if self._hosts.count > 1:
            all_found = self._hosts.exchange([[i, *(x.tolist() for x in played)] for i, played in found])
            found = [(i, evaluation.Episodes(*map(np.asarray, x))) for of_host in all_found for i, *x in of_host]
        return dict(sorted(found, key=lambda item: item[0]))
