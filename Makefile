# All commands of this project. `make help` lists them.

VENV ?= .venv
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
WORKERS ?= auto
PYTEST_ARGS ?=
CONFORMANCE_ARGS ?=
BENCH_ARGS ?=
FUZZ_S ?= 60

BIN := $(VENV)/bin
READY := $(VENV)/.ready
JS_TESTS := tests/conformance/js
JS_READY := $(JS_TESTS)/node_modules/.package-lock.json

# Node.js is in the environment if the system has none.
WITH_NODE := PATH="$(abspath $(BIN)):$$PATH"

# Page with the AI SDK, of the example with answers.
ANSWERS := examples/answers_react
ANSWERS_PAGE := $(ANSWERS)/build/chat.js

# Sources of the pages of the chat and of the inspector, in TypeScript, and the pages that
# one run of Vite builds from them.
WEB := src/falcon_channels_chat/web
INSPECTOR := src/falcon_channels/inspector
PAGE := src/falcon_channels_chat/page/index.html
INSPECTOR_PAGE := $(INSPECTOR)/page/index.html

# The built documentation.
SITE := build/site

.DEFAULT_GOAL := help

.PHONY: help
help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) $(INSPECTOR_PAGE)  ## Create the environment in .venv, and install the project and its dependencies

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'falcon-channels needs Python 3.11 or newer, for example: make setup PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

.PHONY: web
web: $(INSPECTOR_PAGE)  ## Build the pages of the chat and the inspector, with Node.js of the system or of PyPI

# The run writes the page of the inspector last.
$(INSPECTOR_PAGE): $(PAGE)
	@test -e $@ || $(BIN)/python scripts/web_pages.py

$(PAGE): $(shell find $(WEB) $(INSPECTOR)/web -name node_modules -prune -o -type f -print) | $(READY)
	$(BIN)/python scripts/web_pages.py

.PHONY: node
node: $(READY)  ## Find Node.js; install it in .venv if the system has none, or an old one
	@$(BIN)/python scripts/web_pages.py --node

.PHONY: system
system:  ## Check the system programs that the tests need; install missing ones from Debian
	@scripts/system-packages

.PHONY: run
run: setup  ## Serve the chat at http://localhost:8000 (PORT and HOST can be set)
	@exec $(BIN)/python -m examples.chat_asgi --host $(HOST) --port $(PORT)

.PHONY: run-wsgi
run-wsgi: setup  ## Serve the synchronous hello example by gunicorn and gevent (PORT and HOST can be set)
	@echo 'Page:      http://$(HOST):$(PORT)/hello'
	@echo 'WebSocket: ws://$(HOST):$(PORT)/'
	@exec $(BIN)/gunicorn --worker-class gevent --bind $(HOST):$(PORT) --no-control-socket examples.hello_wsgi:app

.PHONY: answers
answers: setup $(ANSWERS_PAGE)  ## Serve the example with answers at http://localhost:8000 (PORT and HOST can be set)
	@exec $(BIN)/falcon-channels serve examples.answers:app --host $(HOST) --port $(PORT)

$(ANSWERS_PAGE): $(addprefix $(ANSWERS)/,chat.jsx package.json package-lock.json) | node
	$(WITH_NODE) npm ci --prefix $(ANSWERS) --ignore-scripts --no-audit --no-fund --loglevel=error
	$(WITH_NODE) npm run --silent --prefix $(ANSWERS) build

.PHONY: test
test: system setup node $(JS_READY) $(ANSWERS_PAGE)  ## Run all tests (PYTEST_ARGS='-k name' picks some)
	$(WITH_NODE) $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

$(JS_READY): $(JS_TESTS)/package.json $(JS_TESTS)/package-lock.json | node
	$(WITH_NODE) npm ci --prefix $(JS_TESTS) --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

.PHONY: test-servers
test-servers: system setup node $(JS_READY) $(ANSWERS_PAGE)  ## Run the tests that start an ASGI application on each of four servers
	@for server in serve uvicorn hypercorn granian; do \
	  echo "On $$server:"; \
	  $(WITH_NODE) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup --asgi-server $$server $(PYTEST_ARGS) || exit 1; \
	done

.PHONY: test-redis
test-redis: system setup  ## Run the contract of the Redis broker with the package hiredis and without it
	@for option in '' --without-hiredis; do \
	  echo "With the options: $$option"; \
	  $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup $$option $(PYTEST_ARGS) \
	    tests/contract/test_redis_contract.py tests/brokers/test_redis_broker.py \
	    tests/brokers/test_redis_replies.py || exit 1; \
	done

.PHONY: test-streams
test-streams: system setup  ## Kill five workers that write streams for 200 readers, with each broker
	STREAM_READERS=200 STREAM_KILLS=5 $(BIN)/python -m pytest -q $(PYTEST_ARGS) tests/streams/test_killed_writers.py

.PHONY: conformance
conformance: setup  ## Run the Autobahn TestSuite (before a release; needs Python 2.7)
	$(BIN)/python scripts/conformance.py $(CONFORMANCE_ARGS)

.PHONY: bench
bench: setup  ## Measure deliveries, connections and memory (one hour; BENCH_ARGS=--quick: minutes)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

.PHONY: simulate
simulate: setup  ## Simulate the hub SEEDS times without sockets, or repeat one run (SEED=n)
	cd tests && $(abspath $(BIN))/python -m simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000))

.PHONY: mutants
mutants: setup  ## Insert 150 defects; fail if one is not noticed (half an hour; NAME=words: some)
	cd tests && $(abspath $(BIN))/python -m simulation.mutants $(NAME)

.PHONY: check
check: setup node  ## Check format, lint, types and architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py
	$(WITH_NODE) npm run --silent --prefix $(WEB) check
	@echo 'Longest modules, in lines:'
	@git ls-files 'src/*.py' | xargs wc -l | sort -rn | sed -n '2,6p'

.PHONY: docs
docs: setup  ## Build the site with the documentation in build/site, and check its links
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs $(SITE)
	$(BIN)/python -m scripts.site.check_links $(SITE)

.PHONY: docs-serve
docs-serve: docs  ## Serve the site at http://localhost:8000 (PORT and HOST can be set)
	@echo 'Site: http://$(HOST):$(PORT)/'
	@exec $(BIN)/python -m http.server --bind $(HOST) --directory $(SITE) $(PORT)

.PHONY: diagrams
diagrams: setup  ## Draw the diagrams of the documentation again
	$(BIN)/python -m scripts.site.diagrams

.PHONY: screenshots
screenshots: setup  ## Take the pictures of the inspector for the documentation again (a minute)
	$(BIN)/python scripts/inspector_screenshots.py

.PHONY: format
format: setup  ## Format the code, and fix what the linter can fix
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: bench-others
bench-others: setup  ## Measure other projects, which it installs in build/ (Centrifugo with Go)
	$(BIN)/python -m benchmarks.others
	$(BIN)/python -m benchmarks.centrifugo
	$(BIN)/python -m benchmarks.broker_peers

.PHONY: lock
lock: setup  ## Write constraints.txt from the installed versions
	$(BIN)/python scripts/write_constraints.py > constraints.tmp && mv constraints.tmp constraints.txt

# The schemas of Kubernetes take 100 MB, so they have their own environment.
.PHONY: containers-check
containers-check: $(READY)  ## Check the files of deploy/ with hadolint, and with the schemas of Compose and Kubernetes
	$(PYTHON) -m venv build/containers
	build/containers/bin/python -m pip install --quiet check-jsonschema==0.39.0 kubernetes-validate==1.37.0
	$(BIN)/hadolint deploy/Dockerfile src/falcon_channels/commands/starter/Dockerfile.template
	build/containers/bin/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	for version in 1.30 1.37; do \
	  build/containers/bin/kubernetes-validate --strict --kubernetes-version $$version deploy/kubernetes.yaml || exit 1; \
	done

.PHONY: clean
clean:  ## Remove the environment and all files that the tools created
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis artifacts build dist \
	  $(WEB)/node_modules src/falcon_channels_chat/page $(INSPECTOR)/page $(ANSWERS)/node_modules $(ANSWERS)/build

# The compiler has its own environment, because it needs another version of protobuf.
PROTOC_VERSION := 1.76.0

.PHONY: proto
proto:  ## Generate the Protobuf module after a change of client.proto
	$(PYTHON) -m venv build/protoc
	build/protoc/bin/python -m pip install --quiet grpcio-tools==$(PROTOC_VERSION)
	build/protoc/bin/python -m grpc_tools.protoc --proto_path=src --python_out=src \
	  --pyi_out=src src/falcon_channels/protocol/client.proto

.PHONY: fuzz
fuzz: setup  ## Send random bytes to both decoders for a minute (FUZZ_S=600 for longer)
	$(BIN)/python -m tests.protocol.fuzz --seconds $(FUZZ_S)
