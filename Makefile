# Each target sets up what it needs (a virtual environment in .venv) and then does its work.
# With an environment of your own: make test VENV=/path/to/it

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
CORES ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: help demo tiny smol test test-vllm lint figures audit notebooks bench clean

TINY := sft token_fkl token_rkl token_akl token_jsd seq_fkl seqkd seq_rkl gkd minillm distillm

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: figures  ## every figure of the post, and the numbers to expect

figures: $(VENV)/.core  ## redraw all eleven figures into assets/
	$(PY) -m toy.figures

audit: $(VENV)/.core  ## the sweeps behind assets/results/ (up to 45 minutes; goes on where it stopped)
	$(PY) -m toy.audit

tiny: $(VENV)/.dev  ## every distillation method once, on the toy language, into runs/tiny/
	$(PY) -m kd_lab train --config tiny/teacher
	$(PY) -m kd_lab train --config tiny/start
	$(PY) -m kd_lab generate --config tiny/generate
	printf 'tiny/%s\n' $(TINY) | xargs -P $(CORES) -I {} $(PY) -m kd_lab train --config {}

smol: $(VENV)/.dev  ## fetch SmolLM2-135M-Instruct once, into models/ (93 MB)
	$(PY) -m kd_lab.smollm2

test: $(VENV)/.dev  ## all tests, then all notebooks
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(CORES) --dist loadfile tests
	$(PY) -m pytest --nbmake --nbmake-timeout=300 notebooks

lint: $(VENV)/.dev  ## formatting, lint and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

notebooks: $(VENV)/.dev  ## run the notebooks and keep their outputs
	$(PY) -m jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False notebooks/*.ipynb

bench: $(VENV)/.dev  ## our speed against peers, as ratios measured in one run
	$(PY) benchmarks/toys.py --json assets/results/bench_toys.json
	$(PY) benchmarks/fused_loss.py --json assets/results/bench_fused_loss.json
	$(PY) benchmarks/fused_loss.py --dtype bfloat16 --no-figure --repeats 2 \
		--json assets/results/bench_fused_loss_bfloat16.json

clean:  ## remove the environment and caches; figures and results stay
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch goes first and by its exact version: what depends on it would else bring another one.
$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	DS_BUILD_OPS=0 $(PIP) install --constraint constraints.txt --editable '.[dev]'
	touch $@
