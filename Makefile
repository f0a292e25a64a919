# The commands of the project. Each is one `expirytrack ...` or `python -m ...` away where there is no make.
PYTHON ?= python3
# Every Python that is supported, for `make versions`: pyenv's where it has one, since its shims start but one of them.
PYTHONS ?= $(foreach v,3.11 3.12 3.13,$(lastword python$(v) $(wildcard $(HOME)/.pyenv/versions/$(v).*/bin/python)))
PORT ?= 3000
UI ?= yes
VENV := .venv
TESTS :=
BIN := $(VENV)/bin

.PHONY: demo ui test versions e2e images docs lint audit bench lock nautilus clean

demo: $(VENV)/ready  ## Try everything without an account; UI=no ends after the summary.
	@$(BIN)/expirytrack demo --port $(PORT) $(if $(filter no,$(UI)),--no-ui)

ui: $(VENV)/ready  ## Serve the Dagster UI and its daemon.
	@$(BIN)/expirytrack ui --port $(PORT)

test: $(VENV)/ready  ## Run all tests, three files at a time; TESTS=folder only those.
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(TESTS)

versions: TESTS := $(addprefix expirytrack_dagster_tests/,unit integration/test_upgrade.py)
versions:  ## The unit tests and real collections on every Python of PYTHONS that is here, each in its own environment.
	@for python in $(PYTHONS); do \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
			|| { echo "$$python is not here: skipped"; continue; }; \
		$(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$$version TESTS="$(TESTS)" || exit 1; \
	done

e2e: $(VENV)/ready  ## Run only what a person meets: the command `ui`, clicks in a real browser, crashes.
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder expirytrack_dagster_tests/e2e

images: $(VENV)/ready  ## Renew the pictures of the UI and of the dashboard in docs/images.
	UI_IMAGES=docs/images $(BIN)/python -m pytest expirytrack_dagster_tests/e2e/test_browser.py \
		expirytrack_dagster_tests/integration/commands/test_status.py

docs: $(VENV)/ready  ## Build the documentation into build/site: reference from the code, notebook executed, links strict.
	$(BIN)/python -m expirytrack_dagster_tests.docsite

lint: $(VENV)/ready  ## Style, types, the direction of imports, risky code, packages that fit each other.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml expirytrack_dagster
	$(BIN)/python -m pip check

audit: $(VENV)/ready  ## Known vulnerabilities of the locked packages (needs the network).
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements.txt

bench: $(VENV)/ready  ## Measure, each figure beside a peer or a floor of the same run (ARGS=--quick for small sizes).
	$(BIN)/python -m expirytrack_dagster_tests.bench $(ARGS)

lock: $(VENV)/ready  ## Resolve the dependencies of pyproject.toml anew (needs uv).
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
		--group dev pyproject.toml --output-file requirements.txt --quiet

nautilus:  ## An environment with NautilusTrader (100 MB, wants an older pandas), for the tests that open a catalog with it.
	$(PYTHON) -m venv .venv-nautilus
	.venv-nautilus/bin/python -m pip install --quiet nautilus_trader==1.221.0

# The lock names every package with its hash, so nothing has to be resolved: --no-deps.
$(VENV)/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Building the environment in $(VENV): a minute or two, once ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -qq --no-deps --require-hashes --requirement requirements.txt
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

clean:  ## Remove the environment and caches; the data stays.
	rm -rf $(VENV) .venv-* build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
