# One environment (.venv), made once by whichever target needs it first, and again when the pins change.
# `make help` lists the targets.

ALGO   ?= rfm_flow
# Not ?=: shells and containers set a variable ENV of their own.
ENV     = dm_control/cartpole-swingup-v0
STEPS  ?= 30000
SEED   ?= 0
RESUME ?=
ARGS   ?=

# The tested set needs Python 3.11 or 3.12; the package itself runs on 3.10, and without DeepMind Control on 3.13.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	"$$p" -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' >/dev/null 2>&1 && echo "$$p" && break; done)

# One thread: two torch threads on a busy machine are many times slower. No window: training needs none, and a video
# is drawn without one.
export OMP_NUM_THREADS ?= 1
export MUJOCO_GL ?= $(if $(filter --video,$(ARGS)),egl,disable)
# Huge pages for large tensors: on the CPU allocating them is a good part of an update otherwise.
export THP_MEM_ALLOC_ENABLE ?= 1

VENV   := .venv
BIN    := $(VENV)/bin
PINNED := $(VENV)/.pinned
READY  := $(VENV)/.stamp
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help train compare test test-slow conformance lint format types docs wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  make train ALGO=$(ALGO) ENV=$(ENV) STEPS=$(STEPS) SEED=$(SEED)"
	@echo "  make train RESUME=runs/<run>"
	@echo "  ARGS='...' is passed on by train, compare, test, test-slow and conformance."

# A change of the pins makes a new environment: some of them break when downgraded in place (mujoco).
$(PINNED): constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 (with venv and ensurepip) was found: install one," \
		"or name it with PYTHON=/path/to/python3.11." >&2; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON): about two minutes and 2 GB, once."
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(PIP) install -c constraints.txt torch
	@touch $@

$(READY): $(PINNED) pyproject.toml
	@$(PIP) install -c constraints.txt -e '.[all]'
	@touch $@

train: $(READY)  ## train ALGO on ENV for STEPS steps, or go on with RESUME=runs/...
	@exec $(BIN)/sb3-rfm run $(if $(RESUME),--resume "$(RESUME)" $(if $(filter command%,$(origin STEPS)),--steps "$(STEPS)"),--algo "$(ALGO)" --env "$(ENV)" \
		--steps "$(STEPS)" --seed "$(SEED)" --folder runs) $(ARGS)

compare: $(READY)  ## algorithms x environments x seeds: ARGS='--algos ...' or '--config FILE' (docs/compare.md)
	@exec $(BIN)/sb3-rfm compare $(ARGS)

test: $(READY)  ## fast tests and doctests (two processes)
	@exec $(BIN)/python -m pytest -n 2 $(ARGS)

test-slow: $(READY)  ## the tests marked slow
	@exec $(BIN)/python -m pytest -m slow $(ARGS)

conformance: $(READY)  ## Stable-Baselines3's own tests with our classes: CLASSES="RFMFlow SAC" (all)
	@exec $(BIN)/python tests/conformance/run.py $(CLASSES) $(ARGS)

lint: $(READY)  ## check style and format (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## repair what ruff can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## check types (mypy)
	$(BIN)/mypy

docs: $(READY)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(READY)  ## build dist/*.whl and compare it with the tree
	@rm -rf build dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	@rm -rf build
	@$(BIN)/python -c "$$CHECK_WHEEL"

clean:  ## remove what the targets made, but runs/
	rm -rf $(VENV) .conformance build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find sb3_rfm tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Each module of sb3_rfm/ and each file of zoo_hyperparams/ has to be in the wheel, and nothing besides.
define CHECK_WHEEL
import glob, pathlib, sys, zipfile
(wheel,) = glob.glob("dist/*.whl")
packed = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
tree = {p.as_posix() for p in pathlib.Path("sb3_rfm").rglob("*.py")} | {"sb3_rfm/py.typed"}
zoo = {f"sb3_rfm/{p.as_posix()}" for p in pathlib.Path("zoo_hyperparams").rglob("*.y*ml")}
wrong = sorted(packed ^ (tree | zoo))
print(wheel, len(packed), "files,", len(zoo), "of zoo_hyperparams")
sys.exit(f"wheel and tree differ: {wrong}" if wrong or not zoo else 0)
endef
export CHECK_WHEEL
