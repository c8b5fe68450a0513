"""seer_jax: reinforcement learning from pixels with stored embeddings."""

__version__ = "0.1.0"
