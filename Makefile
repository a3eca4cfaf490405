# Everything happens in .venv, which is made once and again only when the dependencies change.
PYTHON ?= python3
BIN = .venv/bin
READY = .venv/ready
READY_TO_TEST = .venv/ready-to-test

# The slow tests measure the checkers on thousands of pictures; `make test-all` runs them too.
.PHONY: demo test test-all clean

test: $(READY_TO_TEST)
	$(BIN)/python -m pytest -q -m 'not slow'

test-all: $(READY_TO_TEST)
	$(BIN)/python -m pytest -q

demo: $(READY)
	$(BIN)/python scripts/demo.py

$(READY): setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e .
	touch $@

$(READY_TO_TEST): $(READY)
	$(BIN)/python -m pip install -q -e '.[test]'
	touch $@

clean:
	rm -rf .venv
