"""The shipped configurations, one module for each agent and suite; they are installed as `seer_jax.configs`."""
