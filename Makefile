# The two commands of the README are `make run` and `make test`; each makes the environment if it is absent.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2
METHOD ?= mrlato_plus
# The best method has a first run of its own; the paper's methods run at their settings, only smaller.
SIZE := $(if $(filter mrlato_plus,$(METHOD)),first_run.flags,cpu_table.flags --method=$(METHOD))

.PHONY: env run test test-slow lint docs notebooks clean

env: $(READY)

run: $(READY)
	$(BIN)/python launch/meta_train.py --flagfile=exp2.flags --flagfile=$(SIZE)

test: lint
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages of docs/ and an API reference as a site: python3 -m http.server --directory site
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Each .ipynb anew from the .py beside it, with the outputs of a run at full size: minutes a notebook.
notebooks: $(READY)
	$(BIN)/python notebooks/_build.py

# A broken install leaves no mark, so the next call starts over.
$(READY): pyproject.toml constraints.txt
	@echo "making the environment in $(VENV): pip works without output for a minute or two, or more on a busy machine ..."
	@start=$$(date +%s) && \
	$(PYTHON) -m venv $(VENV) && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[plots,test]' && \
	touch $@ && echo "environment ready after $$(($$(date +%s) - start)) s"

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
