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
export ARGS ?=
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

.PHONY: test
test: ## Everything: tools, checks, all tests with real servers and clients; with PKG= that package with its tools (ARGS=)
	@scripts/test.sh $(PKG)

# The packages that have such tests (testenv.Steps). A failure prints its seed, which BERTH_TEST_SEED repeats.
SOAK = ./auth ./registry/...
.PHONY: soak
soak: ## The random tests of models and races with many more steps (BERTH_TEST_STEPS=5000 sets how many)
	@BERTH_TEST_SOAK=yes scripts/test.sh $(SOAK)

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
