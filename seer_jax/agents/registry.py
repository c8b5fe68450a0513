"""The algorithms, by the name that `agent.name` gives."""

from seer_jax.agents import rainbow

AGENTS = {"rainbow": rainbow.make_agent}
