# `make paper-check` and `make test` work on a fresh clone: each makes the environment that it needs.
# Another Python or place: make test PYTHON=python3.12 VENV=elsewhere
# With the images of CIFAR-10 one run of the middle tier is made, too: make paper-check ROOT=data

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: paper-check test lint clean

paper-check: $(VENV)/installed-test
	$(BIN)/pytest benchmark/ --paper-check $(if $(ROOT),--paper-root $(ROOT))

test: $(VENV)/installed-test
	$(BIN)/pytest tests/

# mypy and import-linter do not see packages that an editable installation maps into a namespace: they get them unpacked.
lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	rm -rf build $(VENV)/typed
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --target $(VENV)/typed .
	MYPYPATH=$(VENV)/typed $(BIN)/mypy -p reclaim.strategies -p reclaim.benchmark
	PYTHONPATH=$(VENV)/typed $(BIN)/lint-imports
	$(BIN)/cffconvert --validate

# One stamp per extra; a changed pyproject.toml installs anew.
$(VENV)/installed-%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -e '.[$*]'
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find strategies benchmark tests -name __pycache__ -prune -exec rm -rf {} +
