"""The program that measures the signals of all seeds of a run in the full phase."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from seer_jax import flops
from seer_jax.run.assembly import Assembly
from seer_jax.run.seed import Keys, configs_of
from seer_jax.run.state import RunState
from seer_jax.seer import signals
from seer_jax.seer.hosts import Hosts


class Measuring:
    """Measures signals.

    Args:
      parts: the assembly of the run.
      hosts: its hosts, all of which make the same calls.

    Attributes:
      cost: of measuring the signals of one seed once.
    """

    def __init__(self, parts: Assembly, hosts: Hosts) -> None:
        self._place, self._hosts = parts.placement, hosts
        phase, place = parts.full, parts.placement
        keys = [Keys(config.seed) for config in configs_of(parts.config)]
        self._keys = [each.signal for each in keys]
        init = jax.jit(lambda key: signals.encoder_of(parts.agent.init(key).params))
        self._untrained = [init(each.agent) for each in keys]
        encoder = signals.encoder_of(phase.state.params)
        same = signals.References(encoder, encoder)
        params, references, key = (
            place.shapes(tree, lanes=False)
            for tree in (phase.state.params, same, jax.eval_shape(lambda: keys[0].signal))
        )
        measure = jax.jit(place.map_seeds(signals.make_measure(phase)), out_shardings=place.sharding(lanes=False))
        with place.context():
            lowered = measure.lower(params, references, place.shapes(phase.ring, lanes=True), key)
            self._program = lowered.compile()
        count = signals.num_states(phase)
        obs = jax.ShapeDtypeStruct((count, *phase.actor.stack.shape[1:]), jnp.uint8)
        compare = signals.make_compare(phase.agent, chunk=count)  # XLA counts the body of a loop once
        self.cost = flops.cost_of(compare, phase.state.params, same, obs)

    def measure(self, run: RunState, env_steps: Mapping[int, int]) -> list[signals.Products]:
        """Returns what is found of each seed, on the host; that of a seed that is not measured has no meaning.

        Args:
          run: the arrays of the run.
          env_steps: for each seed that is measured, by number from 0 on, its agent steps so far.
        """
        steps = [env_steps.get(i, 0) for i in range(len(self._keys))]
        keys = [jax.random.fold_in(key, count) for key, count in zip(self._keys, steps, strict=True)]
        references = [signals.references(*each) for each in zip(self._untrained, run.encoders, steps, strict=True)]
        place = self._place
        found = self._program(
            run.train.params, place.stack(references, lanes=False), run.ring, place.stack(keys, lanes=False)
        )
        return [jax.device_get(each) for each in place.unstack(found, self._hosts)]
