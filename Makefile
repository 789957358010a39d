# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-digits test test-browser test-slow wheel mutation quality types api style lock

# The stamp is the installed lock file itself, so a changed lock installs again and an interrupted install too.
.venv: .venv/requirements.lock

.venv/requirements.lock: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Cardiff needs Python 3.11 or newer (diffusers does): make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	cp requirements.lock .venv/requirements.lock

demo: .venv
	$(BIN)/python demo.py

demo-digits: .venv
	$(BIN)/python demo_digits.py

# Two workers of one thread each: the tests' networks are too small to keep a second thread busy. A file's tests stay
# together, because they share what their fixtures have trained.
test: .venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Builds the wheel, unpacks it into an empty folder and imports all that is in it.
wheel: .venv
	$(BIN)/python -m pytest -m wheel tests/test_package.py

# Clicks through the app in Chromium; where there is none, the tests say how to get one.
test-browser: .venv
	$(BIN)/python -m pytest -m browser tests/app

test-slow: .venv
	$(BIN)/python -m pytest -m slow

# Plants small faults one at a time, to see whether the tests notice: half an hour, and what has not changed since the
# last run is not run again.
mutation: .venv
	$(BIN)/python benchmarks/mutation.py

# Against the package as it is installed, where cardiff.schedulers and cardiff.pipelines lie inside cardiff.
types: .venv
	rm -rf build  # setuptools would take modules from it that are no more
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target build/types .
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p cardiff

api: .venv
	$(BIN)/python docs/make_api.py

quality: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: .venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Needs uv (pip install uv): resolves setup.cfg's ranges for every Python and platform at once.
lock:
	uv pip compile setup.cfg --all-extras --universal --python-version 3.11 --no-emit-index-url --no-annotate \
	  --custom-compile-command "make lock" --output-file requirements.lock
