"""The experiments of the paper, sweeps, reports, studies and the benchmark; nothing in `seer_jax` imports them."""
