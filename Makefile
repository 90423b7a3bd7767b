# Everything sets itself up in .venv: `run` holds what a device needs, `dev` also torch and the tools.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/run/bin
DEV := $(VENV)/dev/bin
WHEEL := $(VENV)/wheel
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

SOURCES := pyproject.toml setup.py README.md LICENSE $(shell find core training export calibration runtime benchmarks zoo \
             -name '*.py' -o -name '*.onnx' -o -name '*.json' -o -name '*.html' -o -name py.typed -o -name '*.pyi')

.PHONY: help demo test format api hashes gpu-check clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

demo: $(VENV)/run.installed ## detect and unmix a simulated scene; results in out/demo
	$(RUN)/glint run 'synthetic://?size=640x512&frames=20&clusters=6&singles=4&noise=1&seed=7' \
	  --radiance-prior 100,12 --psf 0.5 --out out/demo/targets.jsonl --overlay out/demo/overlays --overwrite
	@echo "targets:  out/demo/targets.jsonl"
	@echo "pictures: out/demo/overlays"

test: $(VENV)/dev.installed ## lint, type-check and test the built wheel
	$(DEV)/ruff check .
	$(DEV)/ruff format --check .
	$(DEV)/mypy -p glint
	GLINT_CACHE=$(CURDIR)/$(VENV)/cache $(DEV)/python -m pytest -n auto --maxprocesses 4

format: $(VENV)/dev.installed ## format the sources
	$(DEV)/ruff check --fix .
	$(DEV)/ruff format .

api: $(VENV)/dev.installed ## write docs/api.md from the docstrings
	$(DEV)/python docs/make_api.py

HASHES := uv pip compile pyproject.toml --quiet --no-header --no-annotate --generate-hashes --extra video --extra mqtt
JETSON := --python-platform aarch64-manylinux_2_28 --extra tensorrt
hashes: ## write deploy/requirements-*.txt from the constraints; needs uv
	$(HASHES) -c constraints.txt --universal --python-version 3.10 -o deploy/requirements-cpu.txt >/dev/null
	$(HASHES) -c constraints-jetpack6.txt --python-version 3.10 $(JETSON) -o deploy/requirements-jetpack6.txt >/dev/null
	$(HASHES) -c constraints-jetpack7.txt --python-version 3.12 $(JETSON) -o deploy/requirements-jetpack7.txt >/dev/null

gpu-check: ## what this machine's GPU can do, as gpu-check.html and .json; uses the active environment
	@$(PYTHON) -c 'import glint' 2>/dev/null || { echo "glint is not in the active environment of $(PYTHON): activate the one that has it, or make gpu-check PYTHON=path/to/python"; exit 1; }
	$(PYTHON) -m glint.benchmarks.gpu_check --out gpu-check --overwrite

clean: ## remove what the build made
	rm -rf $(VENV) build dist out glint_ir.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The wheel is what users install, so it is what runs and what is tested. Its machine code is made by the Numba that the
# constraints name.
$(WHEEL).built: $(SOURCES) | $(VENV)
	rm -rf $(WHEEL) build/lib build/bdist.*
	$(PYTHON) -m venv $(VENV)/build
	GLINT_MODELS=all PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(VENV)/build/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(WHEEL) .
	touch $@

$(VENV):
	mkdir -p $@

# What the wheel asks for comes with it; the wheel itself is put in anew whenever a source changes.
$(VENV)/run.deps: constraints.txt pyproject.toml | $(WHEEL).built
	$(PYTHON) -m venv $(VENV)/run
	$(RUN)/python $(PIP_INSTALL) -c constraints.txt $(WHEEL)/*.whl
	touch $@

$(VENV)/dev.deps: constraints.txt pyproject.toml | $(WHEEL).built
	$(PYTHON) -m venv $(VENV)/dev
	$(DEV)/python $(PIP_INSTALL) -c constraints.txt torch
	$(DEV)/python $(PIP_INSTALL) -c constraints.txt "$$(echo $(WHEEL)/*.whl)[dev]"
	touch $@

$(VENV)/%.installed: $(VENV)/%.deps $(WHEEL).built
	$(VENV)/$*/bin/python $(PIP_INSTALL) --force-reinstall --no-deps $(WHEEL)/*.whl
	$(VENV)/$*/bin/python -m pip check
	touch $@
