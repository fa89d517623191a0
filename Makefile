# Development tasks; `make` without arguments lists them.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8080
# More arguments for pytest, such as ARGS='-k redis -x', or for the comparison: see bench/README.md
ARGS ?=

BIN = $(VENV)/bin
NATIVE = wsbridge/native/Cargo.toml wsbridge/native/Cargo.lock $(wildcard wsbridge/native/src/*.rs wsbridge/native/src/*/*.rs)
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' wsbridge/__init__.py)
# With WSBRIDGE_TEST_EXEC=1, tests start every wsbridge as a user does, rather than as a fork: see tests/forked.py.
# Four workers on two cores: tests wait for a part of their time.
PYTEST = WSBRIDGE_TEST_ALL=1 $(BIN)/python -m pytest -m 'not soak' -n 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-native test-bytecode coverage lint bench bench-plots soak fuzz wheel deb lock packages clean

help:  ## This list
	@echo 'make TARGET'
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /  \1 \t/' | expand -t 15
	@echo 'Variables: PORT=8080 (demo), ARGS=… (for pytest or bench), PYTHON=python3, VENV=.venv'

demo: $(VENV)/.run  ## Start the browser demo at http://127.0.0.1:8080 (PORT=… for another port)
	@exec $(BIN)/wsbridge demo --port $(PORT)

test: packages $(VENV)/.test  ## Lint, type checks, and all tests except the long ones
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target lint test-native test-bytecode
	$(PYTEST) $(ARGS)

test-native:
	tests/native.sh test

# Compiles the tests once; each worker would otherwise do so for itself.
test-bytecode: $(VENV)/.test
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --collect-only -qq >/dev/null

coverage: packages $(VENV)/.test  ## Line and branch coverage of wsbridge/
	$(PYTEST) --cov=wsbridge $(ARGS)

lint: $(VENV)/.test  ## Style and types
	$(BIN)/ruff check wsbridge bench package tests setup.py
	$(BIN)/ruff format --check --quiet wsbridge bench package tests setup.py
	$(BIN)/mypy
	tests/native.sh lint

bench: $(VENV)/.bench  ## Speed and memory compared with lighttpd and others (ARGS='--case echo64 --rounds 3')
	$(BIN)/python -m bench $(ARGS)

bench-plots: $(VENV)/.bench  ## The same over the size of messages and the number of connections, in docs/benchmarks/
	$(BIN)/python -m bench.plots $(ARGS)

soak: packages $(VENV)/.test  ## The long tests: gigabytes, thousands of connections, minutes
	tests/native.sh address
	WSBRIDGE_TEST_ALL=1 WSBRIDGE_TEST_EXEC=1 $(BIN)/python -m pytest -m soak -o faulthandler_timeout=0 $(ARGS)

fuzz: $(VENV)/.test  ## The fuzz tests with many more examples, new ones each time
	tests/native.sh fuzz
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -m 'not soak' -o faulthandler_timeout=0 $(or $(ARGS),tests/fuzz)

wheel: $(VENV)/.build  ## Wheel and source distribution, in dist/
	@rm -f dist/wsbridged-$(VERSION)-*.whl
	$(BIN)/python -m build --outdir dist

deb: wheel  ## Debian package of the wheel and its libraries, in dist/
	package/debian/build.sh dist/wsbridged-$(VERSION)-*.whl dist

lock: $(VENV)/.build  ## Update the versions of the libraries in package/requirements.txt
	$(BIN)/python -m uv pip compile --quiet --upgrade --extra auth --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-header --output-file package/requirements.txt pyproject.toml

clean:  ## Remove everything that make created
	rm -rf $(VENV) build dist *.egg-info wsbridge/native/target wsbridge/native/_native*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	find wsbridge bench package tests -name __pycache__ -prune -exec rm -rf {} +

packages:
	@tests/install.sh

# The virtual environment. A stamp older than pyproject.toml means that dependencies may have changed; one older than the
# native engine, that this must be built again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'make: $(PYTHON) is not Python 3.11 or newer: set PYTHON=…' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo 'make: $(PYTHON) cannot create a virtual environment: on Debian, "apt-get install python3-venv"' >&2; exit 1; }

$(VENV)/.run: pyproject.toml $(NATIVE) | $(BIN)/python
	@echo 'Installing wsbridge into $(VENV): a minute or two where Rust is installed, which compiles the native engine'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: pyproject.toml $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.run

$(VENV)/.build: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build uv
	@touch $@

$(VENV)/.bench: pyproject.toml $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@ $(VENV)/.run
