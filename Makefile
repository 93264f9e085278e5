# Each target makes .venv and installs what it needs by itself. Needs Python 3.11 or newer, gcc and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Tests start processes of their own and compute on one thread each; a file stays on one worker, so its fixtures are built once.
PYTEST ?= pytest -n 2 --dist loadfile

VENV := .venv
PIP := $(VENV)/bin/pip install --quiet -c constraints.txt
LOCKED := pyproject.toml constraints.txt
CODE := unimodel data_pipelines launch tests benchmarks

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo play test test-all chaos check format bench clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.installed ## the whole road on this machine: record, train, evaluate, export, report; and a world of it
	bash launch/demo.sh
	bash launch/world.sh

play: $(VENV)/.installed-play ## play in the world that the demo has trained, in the browser
	@test -f runs/demo/config.yaml || { echo "runs/demo is not trained yet: make demo" >&2; exit 2; }
	unimodel play runs/demo

test: $(VENV)/.installed-dev ## the tests, without the slow ones and those for a GPU
	$(PYTEST)

test-all: $(VENV)/.installed-dev ## the slow tests too
	$(PYTEST) -m "not gpu"

chaos: $(VENV)/.installed-dev ## a run under attack: processes killed and stopped, checkpoints damaged, the disk filled
	$(PYTEST) -n 0 -m slow -s tests/distributed/test_chaos.py

check: $(VENV)/.installed-dev ## lint, format, types, import rules
	ruff check $(CODE)
	ruff format --check $(CODE)
	pyright
	lint-imports --no-logo

format: $(VENV)/.installed-dev ## apply the format and the safe fixes
	ruff check --fix $(CODE)
	ruff format $(CODE)

bench: $(VENV)/.installed-bench ## speed and memory, side by side with peers
	@for file in $(wildcard benchmarks/*.py); do echo "== $$file"; python "$$file" || exit 1; done

clean: ## remove .venv and caches; runs/ and data/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info

# torch goes first and alone: pinned, it takes the wheel this machine is set up for (CPU or CUDA) and nothing else moves it.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "installing into $(VENV) (a few minutes the first time)"
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	touch $@

$(VENV)/.installed: $(VENV)/.torch $(LOCKED)
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.installed-play: $(VENV)/.installed
	$(PIP) -e '.[play]'
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(PIP) -e '.[bench]'
	touch $@
