"""Times this package beside PyTorch twins of its agents. `python -m experiments.benchmark` is the command."""
