# SCI-CD. `make` lists the targets.
#
# Everything a target needs it makes or installs itself: outside tools by apt,
# when root on Debian (else the script says exactly what is missing), linters
# into .tools/ at the versions below, outside of our module graph.

GO      ?= go
VERSION ?= 0.1.0
DIST    ?= dist
SITE    ?=
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false
STATIC  := -s -w -buildid=

GOLANGCI_LINT_VERSION := v2.6.2
TOOLS   := $(CURDIR)/.tools

.DEFAULT_GOAL := help
.PHONY: help iso iso-bookworm iso-image iso-cluster build agent guest test test-unit test-mirror test-iso test-boot test-install test-cluster test-cluster-faults reproduce bench bench-install fuzz lint vet shellcheck generate deps clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | sort | awk -F'\t' '{printf "  %-19s %s\n", $$1, $$2}'

# The agent is carried inside the builder, packed, so that building an ISO needs
# no Go. Its bytes depend on its sources alone.
agent: ## the agent, static, for the installed machines
	GOOS=linux GOARCH=amd64 GOAMD64=v1 $(BUILD) -ldflags '$(STATIC) -X main.version=$(VERSION)' -o bin/sci-agent ./cmd/sci-agent
	@mkdir -p cmd/sci-cd/agent
	@new=cmd/sci-cd/agent/.sci-agent.gz.$$$$; gzip -9nc bin/sci-agent > $$new && \
		{ cmp -s $$new cmd/sci-cd/agent/sci-agent.gz && rm $$new || mv $$new cmd/sci-cd/agent/sci-agent.gz; }

# The guest of `sci-cd test --site` is carried likewise; it goes onto no medium.
guest: ## the guest, static, for instances in a cluster under test
	GOOS=linux GOARCH=amd64 GOAMD64=v1 $(BUILD) -ldflags '$(STATIC)' -o bin/sci-guest ./cmd/sci-guest
	@mkdir -p cmd/sci-cd/guest
	@new=cmd/sci-cd/guest/.sci-guest.gz.$$$$; gzip -9nc bin/sci-guest > $$new && \
		{ cmp -s $$new cmd/sci-cd/guest/sci-guest.gz && rm $$new || mv $$new cmd/sci-cd/guest/sci-guest.gz; }

build: agent guest ## bin/sci-cd
	$(BUILD) -ldflags '$(STATIC) -X main.version=$(VERSION)' -o bin/sci-cd ./cmd/sci-cd

iso: build ## the ISO of the example site (or of SITE=site.yaml) in dist/
	bin/sci-cd build $(SITE) $(if $(SITE),,-o $(DIST)/sci-cd-trixie-amd64.iso)

iso-bookworm: build ## the same site on Debian 12
	scripts/site-bookworm $(DIST)/bookworm
	bin/sci-cd build $(DIST)/bookworm/site.yaml -o $(DIST)/sci-cd-bookworm-amd64.iso

iso-image: deps iso ## the same site, installed from a golden image, which is captured in QEMU
	DIST=$(DIST) scripts/iso-image

# Ganeti waits longer there for its nodes: testdata/cluster/profiles.
iso-cluster: iso-image ## the same site for tests of the cluster in emulation
	FROM=$(DIST)/image scripts/site-cluster $(DIST)/cluster
	bin/sci-cd build $(DIST)/cluster/site.yaml -o $(DIST)/sci-cd-trixie-amd64-cluster.iso

deps: ## what the tests need, by apt
	scripts/deps

test: deps test-unit test-mirror iso test-iso test-boot ## everything but full installations

test-unit: agent vet shellcheck ## unit tests: no network beyond loopback
	$(GO) test ./...

test-mirror: agent ## against the real archive
	scripts/test-mirror

test-iso: deps iso ## the real ISO, judged by xorriso, isoinfo, apt, sqv
	$(GO) test -tags realiso -run Real -count=1 -timeout 20m ./pkg/build

test-boot: deps iso iso-bookworm ## boots the ISO to the installer in QEMU, every way
	$(GO) test -tags qemu -count=1 -timeout 15m ./pkg/vm
	scripts/test-boot

test-install: deps iso ## installs a node in QEMU: BIOS and UEFI, no network
	scripts/test-install

test-cluster: iso-cluster ## installs the site's nodes in QEMU, until they are a cluster
	scripts/test-cluster

test-cluster-faults: iso-cluster ## what goes wrong: power, cables, clocks, disks, nodes lost (ONLY=, SEED=)
	scripts/test-cluster-faults

reproduce: deps build ## two builds of one site, byte for byte
	scripts/reproduce

bench: build ## ratios, all taken in one run
	scripts/bench

bench-install: deps iso ## CPU and wall of a stock, a lean and an image installation; stock and lean compared
	scripts/bench-install

fuzz: ## each fuzz target for a short while
	scripts/fuzz

generate: ## JSON Schema and reference of the site file
	$(GO) test ./pkg/site -run 'Schema|Reference' -update

vet:
	$(GO) vet ./...

shellcheck: ## every script that we ship
	scripts/shellcheck

lint: vet shellcheck $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION) ## golangci-lint, gofmt
	$(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION) run ./...

$(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION):
	@mkdir -p $(TOOLS)/tmp
	GOBIN=$(TOOLS)/tmp GOFLAGS= $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv $(TOOLS)/tmp/golangci-lint $@

clean: ## what was built; the download cache stays
	rm -rf bin $(DIST) cmd/sci-cd/agent/sci-agent.gz cmd/sci-cd/guest/sci-guest.gz
