"""What an experiment consists of, and training of many runs."""
