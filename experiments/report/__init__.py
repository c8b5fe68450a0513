"""Reads records of runs and shows them as curves, tables and pages. `python -m experiments.report` is the command."""
