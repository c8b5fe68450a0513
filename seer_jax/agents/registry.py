"""The algorithms, by the name that `agent.name` gives.

Each is a module with `make_agent(config, action_spec)`, and with what a run must know of it before it starts:
`stage_names(config)`, `latent_shape(config)` and `updates_per_cycle(config)`.
"""

from seer_jax.agents import curl_sac, rainbow

AGENTS = {"rainbow": rainbow, "curl_sac": curl_sac}
