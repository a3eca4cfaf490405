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

.PHONY: demo demo-words app test test-all test-app web web-check gpu speed fuzz check format docs clean \
	rendered-scenes rendered-weights rendered-table

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

# The weights of data/demo from nothing, for those who change the world or the models. Pictures need an environment with
# Blender (pip install -e '.[render]', Python 3.11), named as PYTHON. New weights are listed by scripts/export.py manifest.
SCENES = datasets/rendered
GPUS = 0,
TRAIN = $(BIN)/python trainer.py -t --gpus $(GPUS) --precision bf16-mixed
EXPORT = $(BIN)/python scripts/export.py
newest = $$(ls -d logs/*_$(1) | tail -1)

rendered-scenes:
	$(PYTHON) scripts/render_scenes.py --out $(SCENES)/train --seeds 0:19500
	$(PYTHON) scripts/render_scenes.py --out $(SCENES)/choose --seeds 1000000:1000050 --edits all --masks
	$(PYTHON) scripts/render_scenes.py --out $(SCENES)/report --seeds 2000000:2000270 --edits all --masks

rendered-weights: $(READY)
	$(BIN)/python scripts/train_checker.py --data $(SCENES)/train --held-out $(SCENES)/choose --out data/demo/checker.safetensors
	$(TRAIN) --base configs/demo/image_tower.yaml -n tower
	$(EXPORT) image_tower --run $(call newest,tower) --out data/demo/image_tower.safetensors
	$(TRAIN) --base configs/demo/first_stage.yaml configs/demo/first_stage_features.yaml -n first_stage
	$(EXPORT) first_stage --run $(call newest,first_stage) --out data/demo/first_stage.safetensors
	$(TRAIN) --base configs/demo/styles.yaml -n styles
	$(EXPORT) image_tower --run $(call newest,styles) --out data/demo/image_tower.safetensors
	$(BIN)/python scripts/cache_latents.py --config configs/demo.yaml configs/demo/backbone.yaml --out $(SCENES)/latents
	$(TRAIN) --base configs/demo.yaml configs/demo/backbone.yaml -n backbone --cuda_graphs data.params.cache=$(SCENES)/latents
	$(EXPORT) unet --run $(call newest,backbone) --out data/demo/backbone.safetensors
	$(BIN)/python scripts/cache_latents.py --config configs/demo.yaml --out $(SCENES)/cache
	$(TRAIN) --base configs/demo.yaml -n adapters --cuda_graphs --max_steps 15000 data.params.cache=$(SCENES)/cache \
		data.params.batch_size=64 lightning.trainer.val_check_interval=5000 model.params.ema_decay=0.998
	$(EXPORT) adapters --run $(call newest,adapters) --out data/demo/adapters.safetensors

rendered-table: $(READY)
	$(BIN)/python scripts/evaluate.py edits --scenes rendered --tasks $(SCENES)/report --methods truth,edit --n 70 --seeds 3 \
		--config configs/demo.yaml --ckpt data/demo/adapters.safetensors --outdir outputs/rendered

clean:
	rm -rf .venv site $(WEB)/node_modules
