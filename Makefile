# `make train` and `make test` set up everything they need in .venv; a second call installs nothing.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: train test check format bench clean

train: .venv/train.stamp
	$(BIN)/python -m seer_jax.train --config=configs/rainbow_atari.py:quick

test: .venv/dev.stamp
	$(BIN)/python -m pytest -n auto --dist loadfile

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/bench.stamp
	$(BIN)/python -m experiments.benchmark

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/train.stamp: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/dev.stamp: requirements-dev.txt requirements-ray.txt requirements-experiments.txt .venv/train.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

.venv/bench.stamp: requirements-bench.txt .venv/train.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	touch $@
