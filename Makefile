# git clone && make demo, or make test: there is no other set-up. PYTHON=… chooses an interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
READY := $(VENV)/.ready-$(VERSION)
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
PEERS := .venv-peers
BENCHMARKS := $(filter-out %/rows.py %/stand.py %/staged.py %/report.py,$(wildcard benchmarks/*.py))
# Inside a sandbox without a home, caches go beside the environment.
export MYPY_CACHE_DIR ?= $(VENV)/cache/mypy
export RUFF_CACHE_DIR ?= $(VENV)/cache/ruff

.PHONY: help setup demo test check fast slow chaos bench bench-quick lock clean

help:
	@echo 'make demo    the main job for real: demo GitLab, Redis-protocol server, workers, lore-submit, the ledger'
	@echo 'make test    every check and every test'
	@echo 'make chaos   minutes of kills, stalls and faults on both databases; prints what it did and found'
	@echo 'make bench   minutes of measuring, each figure beside what it is compared to; make bench-quick: within one'
	@echo 'make lock    resolve the dependencies anew into requirements.lock (needs uv)'

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("lore needs Python 3.11 or newer: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --require-hashes --requirement requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	$(BIN)/lore demo

test: check fast slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir $(VENV)/cache/import-linter

fast: setup
	$(BIN)/python -m pytest -m 'not slow' -n auto -q -p no:cacheprovider

slow: setup
	$(BIN)/python -m pytest -m slow -q -p no:cacheprovider

chaos: setup
	$(BIN)/python tests/chaos/chaos.py --database sqlite --seconds 60 --seed 7
	$(BIN)/python tests/chaos/chaos.py --database postgresql --seconds 60 --seed 7

bench: ASKED :=
bench-quick: ASKED := --quick
bench bench-quick: setup $(PEERS)/.ready
	rm -rf benchmarks/results
	@failed=; for script in $(BENCHMARKS); do \
	  echo "$$ $(BIN)/python $$script $(ASKED)"; \
	  $(BIN)/python $$script $(ASKED) --json benchmarks/results/$$(basename $$script .py).json || failed="$$failed $$script"; \
	done; \
	$(PEERS)/bin/python benchmarks/report.py; \
	test -z "$$failed" || { echo "without a result:$$failed" >&2; exit 1; }

# What lore is compared to, and what draws the curves, is none of its dependencies.
$(PEERS)/.ready: benchmarks/requirements-peers.txt
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip --quiet --disable-pip-version-check --no-input install --requirement $<
	@touch $@

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --no-header --no-annotate --extra test --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) $(PEERS)
