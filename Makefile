# The commands of the project. Each does all of its own set-up: needed are make, and a Python as pyproject.toml wants it.
# The newest one is used; `make test PYTHON=python3.11` takes that one.

BIN := .venv/bin
READY := .venv/.ready$(addprefix -,$(notdir $(PYTHON)))
OLDEST := $(shell sed -n 's/^requires-python = ">=\([0-9.]*\)"$$/\1/p' pyproject.toml)

ON_BOTH := $(addprefix tests/unit/test_,$(addsuffix .py,database store intake lookups refresh history sweep mirror)) \
	$(addprefix tests/system/test_,$(addsuffix .py,processes latest_orders look_ups webhooks customers disputes faults load)) \
	tests/histories

.DEFAULT_GOAL := help
.PHONY: help bench check demo fuzz pictures run test

help: ## Show the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

bench: $(READY) ## Measure the bridge beside its limits, in 10 minutes; QUICK=1 in 90 seconds; PEERS=1 beside others
	@$(BIN)/python -m tools.bench $(if $(QUICK),--quick) $(if $(PEERS),--peers)

check: $(READY) ## Check style and types and run the unit tests, in about a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses 4 tests/unit  # some of which wait

demo: $(READY) ## Try the bridge with a sandbox AiFi; Ctrl-C ends both
	@$(BIN)/python -m tools.demo

fuzz: $(READY) ## Search for a history that breaks a guarantee, for 5 minutes or SECONDS=600
	@FUZZ_SECONDS=$(or $(SECONDS),300) $(BIN)/python -m pytest tests/histories

pictures: $(READY) ## Take the README's pictures of the demo; needs Chromium
	@$(BIN)/python -m tools.pictures

run: $(READY) ## Serve by the Procfile, with the environment's settings or those in .env
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/honcho --no-prefix start --port $${PORT:-8000} web

test: check ## Run `make check`, and the tests of the whole system, those of the mirror on a PostgreSQL server too
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile tests/system tests/histories  # which mostly wait
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --server $(ON_BOTH)

# The virtual environment, made anew when the requirements or the choice of Python change.
$(READY): requirements.txt requirements-dev.txt
	@for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3.10 python3 python); do \
		if "$$python" -c 'import sys, ensurepip, venv; \
				sys.exit([*sys.version_info[:2]] < [*map(int, "$(OLDEST)".split("."))])' 2>/dev/null; then \
			echo "Setting up .venv with $$($$python --version)"; \
			exec "$$python" -m venv --clear .venv; \
		fi; \
	done; \
	echo "No suitable Python found$(PYTHON:%= as %): install Python $(OLDEST) or newer, with its venv module." >&2; \
	exit 1
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@
