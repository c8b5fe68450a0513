"""The algorithms, by the value of `agent.name`."""

from seer_jax.agents import base, curl, rainbow

# A configuration file may add its own: `docs/tutorial.md` does.
AGENTS: dict[str, base.Algorithm] = {"rainbow": rainbow.RAINBOW, "curl_sac": curl.CURL_SAC}
