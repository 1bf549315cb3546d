# Needs Python 3.11 or newer, make and git. All paths are relative: the folder's own path may have spaces.
.POSIX:
.DEFAULT_GOAL := help
.PHONY: help install demo up chaos bench test test-once test-bare test-browser test-all test-python test-fastembed \
	test-openapi audit screenshots lint compose-check lock

# Our programs are started hundreds of times: with nothing compiled kept, each start compiles all anew.
# And the home of another Python does not hold the library of ours.
unexport PYTHONDONTWRITEBYTECODE PYTHONHOME
# What others have put there would be found before what we install; pip would even not install it.
.venv/installed demo up: export PYTHONPATH :=

PYTHON := .venv/bin/python
CHROMIUM := chromium
# Three processes, each with servers of its own: two leave a third of two cores idle, since tests wait.
AT_ONCE := -n 3 --dist loadfile
NO_PAGE = echo "NOT TESTED: the page, since there is no $(CHROMIUM) on this machine"

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

install: .venv/installed ## Make .venv with everything in it; the program is .venv/bin/pdf-ingest

demo: install ## Ingest sample PDFs on a stack of its own, search them, stop everything
	@exec $(PYTHON) -m app.local.cli demo

up: install ## Run the whole service at http://127.0.0.1:8000 until Ctrl-C (options: ARGS="--port 8001")
	@exec $(PYTHON) -m app.local.cli up $(ARGS)

chaos: install ## Break every part of a stack of its own and count that nothing is lost (options in ARGS)
	@exec $(PYTHON) -m app.local.cli chaos $(ARGS)

bench: install ## Measure how fast everything is (options in ARGS="--quick ingest", "--help")
	@exec $(PYTHON) -m app.local.cli bench $(ARGS)

test: lint ## Check the code and run the tests, those of the page as well where CHROMIUM [chromium] is found
	@if command -v $(CHROMIUM) >/dev/null 2>&1; then $(MAKE) .venv/browser/installed && \
		CHROMIUM=$(CHROMIUM) PYTHONPATH=.venv/browser $(MAKE) test-once TESTS=tests; \
	else $(MAKE) test-once TESTS="--ignore tests/browser" && $(NO_PAGE); fi

# Many tests start servers, for which a busy machine is late now and then. Exit code 1: some tests failed.
test-once: # Run TESTS; what fails beside others is said, and tried once more by itself: what fails again, fails
	@code=0; $(PYTHON) -m pytest $(AT_ONCE) -m "not heavy" $(TESTS) || code=$$?; \
	if [ $$code -eq 1 ]; then \
		echo "FAILED BESIDE OTHERS (above): once more, each by itself. Who passes now was late, or has a race."; \
		$(PYTHON) -m pytest --last-failed --last-failed-no-failures none -m "not heavy" -v $(TESTS); \
	else exit $$code; fi

test-bare: install ## Run the tests that name programs of the system again, on a PATH without any: each is skipped and says so
	@mkdir -p .venv/bare
	env PATH="$$PWD/.venv/bare" "$$PWD/$(PYTHON)" -m pytest -q -m "program and not heavy" -rs --ignore tests/browser

test-browser: .venv/browser/installed ## Test the page in the browser called CHROMIUM [chromium] on a stack of its own
	CHROMIUM=$(CHROMIUM) PYTHONPATH=.venv/browser $(PYTHON) -m pytest tests/browser

screenshots: .venv/browser/installed ## Take the pictures of README.md anew, from the samples
	CHROMIUM=$(CHROMIUM) PYTHONPATH=.venv/browser $(PYTHON) -m tests.browser.screenshots

test-all: lint test-fastembed test-openapi audit ## Run the heavy tests too, with fastembed, and the bridge and the worker on other Pythons
	$(PYTHON) -m pytest --ignore tests/browser
	@if command -v $(CHROMIUM) >/dev/null 2>&1; then $(MAKE) test-browser; else $(NO_PAGE); fi
	@export PATH="$$(printf '%s:' $$HOME/.pyenv/versions/*/bin)$$PATH"; \
	for name in python3.11 python3.12 python3.13; do \
		if $$name -c 'import ensurepip, venv' 2>/dev/null; then $(MAKE) test-python NAME=$$name || exit 1; \
		else echo "NOT TESTED: there is no $$name on this machine"; fi; \
	done

test-python: # Test the bridge and the worker on the Python called NAME, in an environment of its own
	$(NAME) -m venv .venv/$(NAME)
	.venv/$(NAME)/bin/python -m pip install --quiet --require-hashes -r requirements.lock
	.venv/$(NAME)/bin/python -m pytest tests/test_bridge.py tests/test_endurance.py tests/test_worker.py \
		tests/storage/test_runs.py

test-fastembed: .venv/fastembed/installed ## Test models in our own processes, in an environment of its own with fastembed
	.venv/fastembed/bin/python -m pytest tests/embeddings/test_fastembed.py tests/reranking

test-openapi: .venv/fastembed/installed ## Try every operation with requests that schemathesis makes up, in the same environment
	.venv/fastembed/bin/python -m pytest tests/api/test_schemathesis.py

audit: .venv/fastembed/installed ## Ask OSV whether anything in the locks has a known hole (needs the network)
	@if $(PYTHON) -c 'import httpx; httpx.get("https://api.osv.dev", timeout=10)' 2>/dev/null; then \
		.venv/fastembed/bin/pip-audit --vulnerability-service osv --disable-pip --require-hashes \
			--requirement requirements-fastembed.lock; \
	else echo "NOT AUDITED: api.osv.dev cannot be reached from here"; fi

.venv/fastembed/installed: .venv/installed requirements-fastembed.lock
	$(PYTHON) -m venv .venv/fastembed
	.venv/fastembed/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements-fastembed.lock
	.venv/fastembed/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation -e .
	@touch .venv/fastembed/installed

lint: install ## Check style and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

compose-check: install ## Check the Dockerfile, docker-compose.yml (with docker at hand) and their smoke test
	.venv/bin/hadolint Dockerfile
	.venv/bin/shellcheck tests/compose_smoke.sh
	@if docker compose version >/dev/null 2>&1; then \
		echo "docker compose config --quiet"; docker compose config --quiet; \
	else \
		echo "docker compose is not installed: docker-compose.yml was not checked" >&2; \
	fi

# Two locks, since what only fastembed, its tests, schemathesis and pip-audit need is 130 MB that `make install` does
# without. The larger is made first and binds the smaller, so that both agree.
LOCKING := uv pip compile pyproject.toml --extra embedded --group dev --universal --python-version 3.11 \
	--upgrade --generate-hashes --no-annotate --no-header --no-emit-index-url

lock: ## Pin the newest versions of all dependencies in all locks (needs uv)
	$(LOCKING) --extra fastembed --group models --group checks -o requirements-fastembed.lock
	$(LOCKING) --constraint requirements-fastembed.lock -o requirements.lock
	uv pip compile --group browser --universal --python-version 3.11 --upgrade --generate-hashes --no-annotate \
		--no-header --no-emit-index-url --constraint requirements.lock -o requirements-browser.lock

# flit-core, which makes the program, comes from the lock as well, so nothing is ever installed that the lock does not name.
# Our folder's path in app.pth is made relative: up to Python 3.12 no Python starts in LC_ALL=C with an umlaut in it.
.venv/installed: requirements.lock pyproject.toml
	@python=; for name in python3 python3.13 python3.12 python3.11 python; do \
		if $$name -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
		then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 or newer with its venv module is needed, and none was found on the PATH." >&2; \
		exit 1; \
	fi; \
	echo "Installing into .venv with $$($$python --version), this takes a minute ..."; \
	$$python -m venv .venv
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@echo ../../../.. | tee .venv/lib/python*/site-packages/app.pth >/dev/null
	@touch .venv/installed

# Beside the environment, not in it: what drives a browser is 40 MB that only these tests need.
.venv/browser/installed: requirements-browser.lock .venv/installed
	@rm -rf .venv/browser
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		--target .venv/browser -r requirements-browser.lock
	@touch .venv/browser/installed
