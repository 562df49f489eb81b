# `make paper-check` and `make test` work on a fresh clone: each makes the environment that it needs.
# Another Python or place: make test PYTHON=python3.12 VENV=elsewhere
# With the images of CIFAR-10 one run of the middle tier is made, too: make paper-check ROOT=data

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: paper-check test soak speed scaling study-cost lint docs release clean

paper-check: $(VENV)/installed-test
	$(BIN)/pytest benchmark/ --paper-check $(if $(ROOT),--paper-root $(ROOT))

test: $(VENV)/installed-test
	$(BIN)/pytest tests/ -n auto --maxprocesses 8 --dist worksteal

# The tests of faults and of input that nobody wrote, 10,000 times each instead of a few hundred.
soak: $(VENV)/installed-test
	RECLAIM_SOAK=10000 $(BIN)/pytest tests/test_fuzz.py tests/records/test_store_faults.py

# Some minutes, at best on a machine that does nothing else; the table is that of docs/performance.md.
speed: $(VENV)/installed-test
	mkdir -p .benchmarks
	$(BIN)/pytest benchmark/checks/test_speed.py --benchmark-json=.benchmarks/speed.json
	$(BIN)/python -m reclaim.benchmark.checks.speed_table .benchmarks/speed.json docs/performance.md

# How alignment grows with classes, tasks and features; up to 5 GiB of memory.
scaling: $(VENV)/installed-test
	$(BIN)/python -m reclaim.benchmark.checks.scaling docs/performance.md

# What all published cells cost on a GPU that timm's authors measured, and on the device of `reclaim rehearse all`:
# make study-cost REHEARSALS=rehearsals/records
study-cost: $(VENV)/installed-test
	$(BIN)/python -m reclaim.benchmark.checks.study_cost docs/scaling.md $(REHEARSALS)

# mypy and import-linter do not see packages that an editable installation maps into a namespace: they get them unpacked.
lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	rm -rf build $(VENV)/typed
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --target $(VENV)/typed .
	MYPYPATH=$(VENV)/typed $(BIN)/mypy -p reclaim.strategies -p reclaim.benchmark
	PYTHONPATH=$(VENV)/typed $(BIN)/lint-imports
	$(BIN)/cffconvert --validate

# The pages of docs/ and the API reference, as a site. The reference reads an unpacked copy, for the same reason.
docs: $(VENV)/installed-docs
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --upgrade --target $(VENV)/typed .
	UNPACKED=$(VENV)/typed $(BIN)/mkdocs build --quiet

# sdist, wheel and SBOM in dist/, tried in fresh environments: make release PYTHONS="python3.10 python3.13"
release:
	.ci/release

# One stamp per extra; a changed pyproject.toml installs anew.
$(VENV)/installed-%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -e '.[$*]'
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find strategies benchmark tests -name __pycache__ -prune -exec rm -rf {} +
