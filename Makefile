# Every target sets up .venv first, so one command is enough on a fresh machine
# (Python 3.11 or newer, make, git).
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
BENCH := bench

.PHONY: demo test compilers bench lint format clean

demo: .venv/ready
	$(BIN)/adn phantom $(DEMO)/raw --cases 68 --validation 8 --test 12 --seed 0
	$(BIN)/adn train configs/demo.py --data $(DEMO)/raw --run $(DEMO)/run
	$(BIN)/adn evaluate $(DEMO)/run

# What the tests compile is kept for the next run of them.
test: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.venv/compiled
test: .venv/ready
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder $(ARGS)

# What the compilers of TPUs and cards, which need no device, make of small forms of a step.
# They stay apart from .venv, where jax would look for the devices.
compilers: .venv/compilers/ready
	.venv/compilers/bin/python -m pytest --noconftest tests/compilers $(ARGS)

# Beside PyTorch: on a CPU one scan of full size and a small joint step (eager alone, for
# torch.compile takes minutes there and is slower), on an accelerator the joint step and
# inference of full size in bfloat16, then the step with other settings of memory and
# determinism.
EAGER := --peer torch --forms eager --repeats 3
SMALL := --prepare.shape 16 64 64 --batch 4 \
    $(foreach net,alignment disentangle segment tissue,--$(net)-net.widths 8 16 32 64)

bench: .venv/torch
	@if $(BIN)/python -c 'import jax, sys; sys.exit(jax.default_backend() != "cpu")'; then set -x; \
	    $(BIN)/adn benchmark configs/adn_reference.py $(EAGER) \
	        --what inference --out $(BENCH)/inference && \
	    $(BIN)/adn benchmark configs/adn_reference.py $(EAGER) \
	        --what joint $(SMALL) --out $(BENCH)/joint; \
	else set -x; \
	    $(BIN)/adn benchmark configs/adn_reference.py --peer torch --repeats 20 \
	        --precision bfloat16 --input synthetic --budget --layers \
	        --out $(BENCH)/full; \
	    $(BIN)/adn benchmark configs/adn_reference.py --what joint --repeats 20 \
	        --precision bfloat16 --remat nothing --out $(BENCH)/remat; \
	    XLA_FLAGS="$$XLA_FLAGS --xla_gpu_deterministic_ops=true" \
	    $(BIN)/adn benchmark configs/adn_reference.py --what joint --repeats 20 \
	        --precision bfloat16 --out $(BENCH)/deterministic; \
	fi

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python .venv

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv $(DEMO) $(BENCH)

# An old pip takes twice the time for the same packages, so it is renewed first.
.venv/ready: pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	    sys.exit(v < (3, 11) and f"Python {v[0]}.{v[1]} found, 3.11 or newer is wanted; run: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

.venv/compilers/ready: pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv/compilers
	.venv/compilers/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	.venv/compilers/bin/pip install --quiet --disable-pip-version-check \
	    --editable '.[plan-tpu,plan-cuda]' pytest beartype
	touch $@

.venv/torch: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[torch]'
	touch $@
