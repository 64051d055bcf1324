# `make tour` is the place to begin. Every target installs what it needs into .venv first, once.

VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/installed

.PHONY: help setup tour test check docs models bench

help:
	@echo "make tour              install, then the induction study on the bundled model"
	@echo "make test [SLOW=1]     the tests; with SLOW=1 the slow ones too"
	@echo "make check             style, types, and which file may import which"
	@echo "make docs              the documentation, into out/docs; its code is run"
	@echo "make models [NAME=x]   train the bundled models again, or one"
	@echo "make bench [NAME=x]    measure speed and memory, all or one of bench/"
	@echo "make setup             install only"

setup: $(INSTALLED)

# A person sees pip's progress; a log does not.
$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing into $(VENV): a minute or more, 2 GB or more"
	@[ -t 1 ] || quiet=-qq; \
	$(PYTHON) -m pip install --disable-pip-version-check $$quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/bin/pip:
	@for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || continue; \
	    $$python -c 'import ensurepip, venv' 2> /dev/null && exec $$python -m venv $(VENV); \
	    without=$$python; \
	done; \
	if [ -n "$$without" ]; then \
	    echo "Pellucid needs Python's venv, and $$without has none; on Debian: sudo apt-get install python3-venv"; \
	else \
	    echo "Pellucid needs Python 3.11 or newer, and there is none as python3 or python3.11 to python3.14;" \
	        "on Debian 12 or newer: sudo apt-get install python3 python3-venv"; \
	fi >&2; \
	exit 1

tour: setup
	$(VENV)/bin/pellucid study induction --model toy-induction --out out/tour --overwrite

# In several processes, since most tests keep to one core. SLOW=part: the slow ones, but for the long.
test: setup
	$(PYTHON) -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal \
	    $(if $(SLOW),-m "$(if $(filter part,$(SLOW)),not long)")

# Pyright would look on the net for a newer one of itself.
check: setup
	$(VENV)/bin/ruff check --quiet
	$(VENV)/bin/ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright
	$(VENV)/bin/lint-imports --no-cache --no-logo

# Without the network; any warning ends the build. The variable silences an advertisement.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo "Written to out/docs/index.html"

# Each script in a process of its own: so that it measures its own memory, and its own imports.
scripts = for file in $(or $(NAME:%=$(1)/$(subst -,_,$(NAME)).py),$(wildcard $(1)/[a-z]*.py)); do \
	    echo "== $$file"; PYTHONPATH=. $(PYTHON) $$file || exit 1; \
	done

models: setup
	@$(call scripts,models)

bench: setup
	@$(call scripts,bench)
