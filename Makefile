# Every target sets up .venv first, so one command is enough on a fresh machine
# (Python 3.11 or newer, make, git).
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo

.PHONY: demo test lint format clean

demo: .venv/ready
	$(BIN)/adn phantom $(DEMO)/raw --cases 68 --validation 8 --test 12 --seed 0
	$(BIN)/python train.py configs/demo.py --data $(DEMO)/raw --run $(DEMO)/run
	$(BIN)/python evaluate.py $(DEMO)/run

test: .venv/ready
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv $(DEMO)

.venv/ready: pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	    sys.exit(v < (3, 11) and f"Python {v[0]}.{v[1]} found, 3.11 or newer is wanted; run: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@
