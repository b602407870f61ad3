# What a developer runs, and CI too. Each target prepares .venv first; that takes no time when nothing changed.
#   PYTHON=python3.12   another interpreter
#   ARGS="-k refund"    more arguments for the command behind the target
#   WORKERS=4           processes that run the tests; 0 for none besides the first, as a debugger wants it

BIN := .venv/bin
ARGS ?=
WORKERS ?= 3
export PYTHON

.PHONY: help bootstrap run test test-providers check fmt words pictures lock bench torture clean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile

bootstrap: ## prepare .venv from requirements.lock
	@scripts/bootstrap

run: bootstrap ## start Clearspan with its database, queue, worker and simulators
	@exec $(BIN)/clearspan up $(ARGS)

test: bootstrap ## run the tests
	@exec $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-providers: bootstrap ## let the providers' own SDKs and other independent programs judge the plugins
	@exec $(BIN)/python -m providers $(ARGS)

check: bootstrap ## format, lint, import contracts, types, generated pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m clearspan.docs_gen --check

fmt: bootstrap ## format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

words: bootstrap ## list the texts of the cockpit that a catalogue lacks; ARGS=de for one language
	@$(BIN)/python -m clearspan_admin.words_missing $(ARGS)

pictures: bootstrap ## take the pictures of docs/operators.md anew; ARGS="home payments" for some
	@$(BIN)/python -m tests.admin.pictures $(ARGS)

lock: bootstrap ## renew the locks after a change of dependencies; ARGS=--upgrade takes newer versions
	@scripts/lock $(ARGS)

bench: bootstrap ## measure, as a ratio to what the database can do
	@exec $(BIN)/python -m bench $(ARGS)

torture: bootstrap ## break everything and check that no money moved twice; ARGS=change for what every change must pass
	@exec $(BIN)/python -m tests.torture $(or $(ARGS),all)

clean: ## delete what was built and cached; .clearspan, the local database, stays
	rm -rf .venv .venv-providers .venv-providers.lock .uv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
