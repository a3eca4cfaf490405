# Everything happens in .venv, which is made once and again only when the dependencies change.
PYTHON ?= python3
BIN = .venv/bin
READY = .venv/ready
READY_TO_TEST = .venv/ready-to-test
READY_TO_CHECK = .venv/ready-to-check
READY_FOR_APP = .venv/ready-for-app
READY_TO_TEST_APP = .venv/ready-to-test-app
WEB = ldm/app/web
# One thread per process: tests run in as many processes as there are cores.
TEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

.PHONY: demo demo-words app test test-all test-app web web-check gpu speed fuzz check format docs clean

demo: $(READY)
	$(BIN)/python scripts/demo.py

# A word taught from four pictures, and used in an edit.
demo-words: $(READY)
	$(BIN)/python scripts/demo_words.py

# The editor in the browser, with the weights that ship.
app: $(READY_FOR_APP)
	$(BIN)/python scripts/app.py

test: $(READY_TO_TEST)
	$(TEST) -m 'not slow'

# The slow tests measure the checkers on thousands of images, among other things.
test-all: $(READY_TO_TEST)
	$(TEST)

# One NVIDIA GPU against the CPU, then speed and memory at the size of configs/vg.yaml: one summary, no network.
gpu: $(READY_TO_TEST)
	$(BIN)/python tests/gpu/prove.py --page docs/performance.md

# The CPU's figures of the table in docs/performance.md: hours on a few cores; RESUME=--resume goes on after an end.
speed: $(READY_TO_TEST)
	$(BIN)/python scripts/benchmark.py --device cpu --size vg --precision both --repeats 4 \
		--only unet,backward,step,images,edit,memory --out outputs/speed --page docs/performance.md $(RESUME)

# Damaged files by the thousand, and programs that are killed at random moments: about half an hour.
fuzz: $(READY_TO_TEST)
	KILLS=12 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow tests/robustness \
		$(shell git ls-files '*test_mutated*.py')

# The editor's page in Chromium: Debian's, else one that Playwright installs.
test-app: $(READY_TO_TEST_APP)
	$(BIN)/python -m pytest -q -m page tests/app/page

# The editor's page, from its sources into ldm/app/static. Its build is committed, so only those who change it need Node.
web: $(WEB)/node_modules
	cd $(WEB) && npm run --silent build

# Types and tests of the page's sources, and whether the committed build is theirs.
web-check: $(WEB)/node_modules
	cd $(WEB) && npm run --silent check

check: $(READY_TO_CHECK)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(READY_TO_CHECK)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY_TO_CHECK)
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(READY): setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e .
	touch $@

$(READY_FOR_APP): $(READY)
	$(BIN)/python -m pip install -q -e '.[app]'
	touch $@

$(READY_TO_TEST): $(READY)
	$(BIN)/python -m pip install -q -e '.[test]'
	touch $@

$(READY_TO_CHECK): $(READY_TO_TEST)
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

$(READY_TO_TEST_APP): $(READY_TO_TEST)
	$(BIN)/python -m pip install -q -e '.[app,test-app]'
	test -x /usr/bin/chromium || $(BIN)/playwright install --with-deps chromium
	touch $@

$(WEB)/node_modules: $(WEB)/package-lock.json
	cd $(WEB) && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

clean:
	rm -rf .venv site $(WEB)/node_modules
