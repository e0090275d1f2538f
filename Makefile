# make demo   train, evaluate and draw on the built-in data set: one command on a bare machine
# make test   all tests but the slow ones, on all cores
# make test-gpu   all that needs an NVIDIA GPU, with a report: checks, tests, demo, speed, memory
#
# Needs Python 3.10-3.12 with venv and headers, g++ and make. `make test PYTHON=python3.11` chooses the interpreter,
# VENV=folder another virtual environment, PIP_ARGS="--index-url …" where packages come from, ARGS="-k word" the tests.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=

RUN := $(VENV)/bin/python
DEMO := $(RUN) tools/run_net.py --config-file configs/shapes_demo.py

.PHONY: demo test test-slow test-gpu lint clean

demo: $(VENV)/installed
	rm -rf work_dirs/shapes_demo
	$(DEMO) --task train
	$(DEMO) --task val --resume
	$(DEMO) --task test --resume

test: $(VENV)/installed-test
	$(RUN) -m pytest -n logical --dist loadfile $(ARGS)

test-slow: $(VENV)/installed-test
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(RUN) -m pytest -m slow -o faulthandler_timeout=0 $(ARGS)

test-gpu: $(VENV)/installed-test
	$(RUN) tools/gpu_report.py $(ARGS)

lint: $(VENV)/installed-test
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made anew when it was made for another folder (it does not survive a move) or its Python is gone.
ifneq ($(shell $(RUN) -c pass 2>/dev/null && cat $(VENV)/place 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/place
endif

$(VENV)/place:
	@test -e $@ -o ! -e $(VENV)/pyvenv.cfg || \
		{ echo "$(VENV) is not of make, which would empty it: use $(RUN), or delete it" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV) || { rm -f $(VENV)/pyvenv.cfg; exit 1; }
	echo "$(CURDIR)" > $@

$(VENV)/installed: pyproject.toml $(VENV)/place
	$(RUN) -m pip install --disable-pip-version-check $(PIP_ARGS) -e .
	touch $@

$(VENV)/installed-test: pyproject.toml $(VENV)/place
	$(RUN) -m pip install --disable-pip-version-check $(PIP_ARGS) -e ".[test]"
	touch $@
