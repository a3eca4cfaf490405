# Everything happens in .venv, which is made once and again only when the dependencies change.
PYTHON ?= python3
BIN = .venv/bin
READY = .venv/ready
READY_TO_TEST = .venv/ready-to-test

.PHONY: demo test clean

test: $(READY_TO_TEST)
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
