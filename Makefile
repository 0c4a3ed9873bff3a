# Berth's commands. `make` or `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BIN := berth
DIST := dist
IMAGE ?= berth:$(VERSION)
GO_BUILD = CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
# How long the fuzzers of `make fuzz` run, each.
FUZZTIME ?= 30s
# What `make test` tests, and with what: make test PKG=./conformance ARGS='-run TestReplicas -v'. A package's tests
# get the programs that they need (scripts/tools.sh for PACKAGE); the checks are then left to `make verify`.
PKG ?= ./...
ARGS ?=
# What runs under the race detector: the packages in which goroutines meet, with all that
# they use but SQLite's own C code, which was translated to Go and takes most of the time there. Of the
# others it would only make the tests slower; ARGS=-race does it.
RACE = ./audit ./auth ./auth/ldap ./auth/oidc ./auth/token ./backup ./registry ./server ./storage/...
RACE_FLAGS = -race -gcflags='modernc.org/sqlite/lib=-race=false'
# Of these, what takes so long under it that a short form runs there (-short), and the whole without it.
LONG = ./registry

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Build Berth and start it on port 5000, data in ./berth-data (minutes of compiling the first time)
	./$(BIN) serve

.PHONY: build
build: ## Build the static binary ./berth
	@echo "building ./$(BIN): on a fresh machine this compiles Berth and its libraries, for some minutes; each package is printed when it is done"
	@$(GO_BUILD) -v -o $(BIN) ./cmd/berth

# -parallel 4: tests with real clients wait more than they compute, also on two cores.
.PHONY: test
test: ## Everything: tools, checks, all tests with real servers and clients; with PKG= that package with its tools (ARGS=)
	@failed=; run=; \
	if [ "$(PKG)" = ./... ]; then \
		scripts/tools.sh; run="go run ./testenv/withservers"; scripts/check.sh || failed="$$failed checks"; \
	else \
		scripts/tools.sh for $(PKG); \
	fi; \
	race=$$(go list $(RACE)); once=$$(grep -vxF "$$(go list $(LONG))" <<<"$$race"); packages=$$(go list $(PKG)); \
	watched=$$(grep -xF "$$race" <<<"$$packages" || true); others=$$(grep -vxF "$$once" <<<"$$packages" || true); \
	if [ -n "$$watched" ]; then scripts/tools.sh gcc; $$run go test $(RACE_FLAGS) -short -p 2 -timeout 60m $(ARGS) $$watched || failed="$$failed race-tests"; fi; \
	if [ -n "$$others" ]; then $$run go test -p 2 -parallel 4 -timeout 60m $(ARGS) $$others || failed="$$failed tests"; fi; \
	if [ -n "$$failed" ]; then echo "FAILED:$$failed"; exit 1; fi; echo "all of it passed"

.PHONY: verify
verify: ## The quick checks: gofmt, vet, staticcheck, generated files
	scripts/check.sh

.PHONY: tools
tools: ## Install or build the programs that the tests need (.cache/tools)
	scripts/tools.sh

.PHONY: format
format: ## Format the Go files
	gofmt -w $$(git ls-files '*.go')

.PHONY: generate
generate: ## Make the generated files again
	go generate ./...

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s) each
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: image
image: ## Make the container image dist/berth-image.tar, offline, from nothing but the binary
	mkdir -p $(DIST)
	$(GO_BUILD) -o $(DIST)/berth ./cmd/berth
	go run ./deploy/image -binary $(DIST)/berth -tag $(IMAGE) -version $(VERSION) -o $(DIST)/berth-image.tar

.PHONY: conformance
conformance: ## Run the official OCI program: make conformance OCI_CONFORMANCE=/path/to/program
	scripts/conformance.sh

.PHONY: bench
bench: ## Measure Berth beside its peers, half an hour on an idle machine; writes docs/performance.md (ARGS=)
	scripts/tools.sh minio
	scripts/tools.sh registry
	go run ./conformance/bench -all -json .cache/bench.json -page docs/performance.md $(ARGS)

.PHONY: clean
clean: ## Remove what was built; data and tools stay
	rm -rf $(BIN) $(DIST)
