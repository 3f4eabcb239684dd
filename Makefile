# Everything a contributor runs. `make help` lists the targets; docs/testing.md says what each test is for.

# One world of compiled packages for the binary, vet, fuzzing and the end-to-end tests. Only the race
# detector needs cgo.
export CGO_ENABLED = 0

GO       ?= go
FUZZTIME ?= 30
VERSION  ?= 0.1.0
ARCH     ?= $(shell $(GO) env GOARCH)
# how long the end-to-end tests may take; more than ORAMA_SOAK.
E2E_FOR  ?= 20m
# go test's packages at a time: compiling SQLite and pion needs a gigabyte each.
JOBS     ?= 3

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
NFPM        = github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.1
GOLANGCI    = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.DEFAULT_GOAL := help
.PHONY: help up build deb deps check lint unit fuzz sdk e2e test bench bench-turn bench-sfu bench-quality screenshot clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## start a three-node cluster on this machine and print the demo page's address
	$(GO) run ./cmd/orama up

build: ## build bin/orama
	$(GO) build -trimpath -o bin/orama ./cmd/orama

bin/nfpm:
	GOBIN=$(CURDIR)/bin $(GO) install $(NFPM)

deb: bin/nfpm ## build the Debian package bin/orama_VERSION_ARCH.deb (of another binary: BINARY=)
	test -n "$(BINARY)" || GOOS=linux GOARCH=$(ARCH) $(GO) build -trimpath -ldflags '-s -w' -o bin/deb/orama ./cmd/orama
	BINARY=$(or $(BINARY),bin/deb/orama) VERSION=$(VERSION) ARCH=$(ARCH) \
	  SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} \
	  bin/nfpm package --config deploy/nfpm.yaml --packager deb --target $(or $(DEB),bin/orama_$(VERSION)_$(ARCH).deb)

deps: ## install what the tests need: browsers (as root, with apt), npm packages
	@tools/install

check: ## formatting and static checks
	@tools/check $(STATICCHECK)

lint: ## golangci-lint, built into bin/ on first use
	test -x bin/golangci-lint || GOBIN=$(CURDIR)/bin $(GO) install $(GOLANGCI)
	bin/golangci-lint run --build-tags e2e ./...

unit: ## unit tests with the race detector, house rules among them
	CGO_ENABLED=1 $(GO) test -race -p $(JOBS) -timeout 4m ./...
	$(GO) test -run Killed ./internal/node # not with -race: see there

fuzz: ## fuzz everything that reads bytes from outside, for FUZZTIME seconds
	@tools/fuzz $(FUZZTIME)

sdk: deps ## type-check and test the TypeScript SDK
	cd sdk && npm run --silent check && npm test --silent

e2e: deps bin/nfpm ## the built binary with real browsers (run one with E2E=TestCall)
	$(GO) test -tags e2e -count 1 -v -timeout $(E2E_FOR) -run '$(E2E)' ./e2e

test: deps check unit fuzz sdk e2e ## all of the above, as CI runs it

bench: deps ## the benchmarks below for a few minutes, and the time a browser's join takes
	$(GO) run ./bench/relay --quick
	$(GO) run ./bench/sfu --quick
	$(GO) test -tags e2e -run '^$$' -bench Join -benchtime 10x ./e2e

bench-turn: deps ## TURN beside coturn: CPU, rates, latency, memory, as ratios (short or in part: BENCH='--quick --only light')
	@$(GO) run ./bench/relay $(BENCH)

bench-sfu: deps ## SFU beside a stock pion fan-out and LiveKit: CPU, rates, latency, memory, join (BENCH='--quick --only 50/relay --livekit PATH')
	@$(GO) run ./bench/sfu $(BENCH)

bench-quality: deps ## what a viewer behind a bad access has of a call, as the table of docs/media-quality.md
	$(GO) test -tags e2e -run '^$$' -bench Quality -benchtime 1x -timeout 20m ./e2e

screenshot: deps ## make docs/call.png anew
	ORAMA_SCREENSHOT=$(CURDIR)/docs/call.png $(GO) test -tags e2e -count 1 -v -run '^TestScreenshot$$' ./e2e

clean: ## remove what was built
	rm -rf bin sdk/dist sdk/.test sdk/node_modules e2e/node_modules
