# `make train` and `make test` set up everything they need in .venv; a second call installs nothing.
# The newest of the tested Pythons that runs and can make an environment; `make PYTHON=... test` takes another.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11; do \
	"$$python" -c "import ensurepip" 2> /dev/null && echo "$$python" && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: train test test-numeric check format bench clean

train: .venv/train.stamp
	$(BIN)/python -m seer_jax.train --config=configs/rainbow_atari.py:quick

test: .venv/dev.stamp
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Results must hold on CPUs without the newest instructions, and with the optimizations that users get.
test-numeric: .venv/dev.stamp
	XLA_FLAGS="$(XLA_FLAGS) --xla_cpu_max_isa=AVX2" $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m numeric
	SEER_JAX_TEST_AS_USERS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m numeric

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/bench.stamp
	$(BIN)/python -m experiments.benchmark

clean:
	rm -rf .venv build dist *.egg-info

.venv/bin/python:
	$(or $(PYTHON),$(error No Python 3.11, 3.12 or 3.13 runs here: install one with its venv module, or name one with PYTHON=)) \
		-m venv .venv || { rm -rf .venv; exit 1; }

# The package itself is installed as a link to this checkout, for its console commands.
.venv/train.stamp: requirements.txt pyproject.toml | .venv/bin/python
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --editable .
	touch $@

.venv/dev.stamp: requirements-dev.txt requirements-ray.txt requirements-experiments.txt .venv/train.stamp
	$(PIP) -r requirements-dev.txt
	touch $@

.venv/bench.stamp: requirements-bench.txt .venv/train.stamp
	$(PIP) -r requirements-bench.txt
	touch $@
