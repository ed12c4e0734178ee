# Each target sets up what it needs in $(VENV) the first time and is cheap the second time.
# Without make, on Windows for instance: python .ci/tasks.py TARGET
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
RUN    := $(BIN)/python
PIP    := $(RUN) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS)

.DEFAULT_GOAL := help
.PHONY: help setup tour test test-solutions test-pythons lab book test-site bench refresh faults audit clean

help:
	@echo "make setup    install all that the lessons and the tests need into .venv, and start nothing"
	@echo "make tour     train giant batches and align a language model on this machine; writes runs/tour/report.html"
	@echo "make test     unit tests, properties and every notebook (pytest --nbval)"
	@echo "make test-solutions  run every lesson whole with its folded solutions filled in"
	@echo "make test-pythons  all tests on Python 3.12, the lessons on 3.11 and 3.13, each in runs/venv-3.XX"
	@echo "make lab      open JupyterLab on lesson 00"
	@echo "make book     build the book into book/_build/html"
	@echo "make test-site  after make book: every page in headless Chromium (console, requests, widths, axe-core)"
	@echo "make bench    time the losses next to their peers; writes runs/bench/"
	@echo "make refresh  execute the notebooks again and store their outputs"
	@echo "make faults   kill a training of each kind a hundred times and compare how it ends, to the bit"
	@echo "make audit    look for known weaknesses of the installed packages (needs a network)"

setup: $(VENV)/.dev
	@echo "next: $(RUN) -m minilib workshop check"

tour: $(VENV)/.core
	$(RUN) -m minilib tour

test: $(VENV)/.dev
	@# two files, then two lessons at a time, each on one thread: a file's tests and a lesson's cells stay together
	$(RUN) -m pytest -n 2 --dist loadfile
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile --nbval --nbval-sanitize-with notebooks/sanitize.cfg notebooks

test-solutions: $(VENV)/.dev
	MINILIB_SOLVED=1 OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 tests/teaching/test_solutions_pass_as_pasted.py

test-pythons:
	$(PYTHON) .ci/tasks.py test-pythons

lab: $(VENV)/.dev
	@# on localhost and behind a token, as root too (in a container), which jupyter would otherwise not start for
	$(RUN) -m jupyter lab --ip=localhost $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/00_start_here.ipynb

book: $(VENV)/.book
	@# figures of pages that have changed would stay otherwise
	$(RUN) -c "import shutil; shutil.rmtree('book/_build/html/_images', ignore_errors=True)"
	$(BIN)/jupyter-book build . --config book/_config.yml --toc book/_toc.yml --path-output book --warningiserror --keep-going --all

test-site: $(VENV)/.dev
	@test -f book/_build/html/index.html || { echo "make test-site looks at the built site: run make book first"; exit 1; }
	@if $(PIP) --editable ".[site]"; then MINILIB_SITE=book/_build/html $(RUN) -m pytest tests/site; \
	  else echo "make test-site: playwright and axe-core could not be installed, so the site was not visited"; fi

bench: $(VENV)/.bench
	$(RUN) -m minilib bench contrastive

refresh: $(VENV)/.dev
	$(RUN) -m minilib.teaching.refresh notebooks/*.ipynb notebooks/labs/*.ipynb

faults: $(VENV)/.dev
	MINILIB_KILLS=100 $(RUN) -m pytest -s tests/faults

audit: $(VENV)/.dev
	$(PIP) pip-audit || { echo "make audit: pip-audit could not be installed, it needs a network. Without one, take the\
	list that '$(RUN) -m pip freeze' prints to a machine that has one, and run pip-audit -r LIST there."; exit 1; }
	$(RUN) -m pip_audit --skip-editable --desc off

clean:
	rm -rf $(VENV) runs book/_build

define new_environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "minilib needs Python 3.11 or newer: run make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# the pip that comes with Python 3.11 takes twice as long over the rest; without a network it stays as it is
	$(PIP) --upgrade pip
endef
# alone: its torchvision would replace torch, and the tests and the bench need one file of it
OPEN_CLIP := --no-deps "open_clip_torch>=3.3,<4"

$(VENV)/.core: pyproject.toml
	$(new_environment)
	$(PIP) "$(TORCH)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.bench: $(VENV)/.core
	$(PIP) --editable ".[bench]"
	$(PIP) $(OPEN_CLIP)
	@touch $@

$(VENV)/.dev: $(VENV)/.bench
	$(PIP) --editable ".[dev]"
	@touch $@

$(VENV)/.book: $(VENV)/.dev
	$(PIP) --editable ".[book]"
	@touch $@

# The layers above at once, with what ALL names, for .ci/run: one call of pip takes a minute less than six.
ALL ?= bench,dev,book
$(VENV)/.all: pyproject.toml
	$(new_environment)
	$(PIP) "$(TORCH)" --editable ".[$(ALL)]"
	$(PIP) $(OPEN_CLIP)
	@touch $(VENV)/.core $(VENV)/.bench $(VENV)/.dev $(VENV)/.book $@
