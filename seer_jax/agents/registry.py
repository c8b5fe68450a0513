"""The algorithms, by the name that `agent.name` gives.

Each is a module with `make_agent(config, action_spec)`, and with what a run must know of it before it starts:
  FIELDS: fields of its configuration, beside and before those of all runs.
  DISCRETE_ACTIONS: whether actions are choices; else they are vectors between -1 and 1.
  check(config): raises ConfigError if values do not go together.
  stage_names(config): stages that `seer.freeze_through` may name; the last is the algorithm's own choice.
  latent_shape(config): `(N, L)` of a stored latent, whose L is 0 if images are too small.
  updates_per_cycle(config): after how many updates its pattern of updates repeats.
"""

from seer_jax.agents import curl as curl_sac
from seer_jax.agents import rainbow

# A configuration file may add its own: `docs/tutorial.md` does.
AGENTS = {"rainbow": rainbow, "curl_sac": curl_sac}
