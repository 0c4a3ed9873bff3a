#!/usr/bin/env bash
# Runs the tests of packages, as `make test` and `make soak` do:
#
#   scripts/test.sh ./...      tools, checks, then all tests with one Postgres and one MinIO for all
#   scripts/test.sh ./oci      the tools that this package needs, then its tests
#
# ARGS in the environment are arguments for go test, quoted as for a shell. What is compiled here has the flags of the program itself (no cgo, no paths of
# this machine), so that the tests, the checks, the program that conformance runs and the tools share one build cache.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -trimpath"
packages=("${@:-./...}")
eval "args=(${ARGS:-})"

# What runs under the race detector: the packages in which goroutines meet, with all that they use but SQLite's own C
# code, which was translated to Go and takes most of the time there. Of the others it would only make the tests
# slower; ARGS=-race does it.
race='./audit ./auth ./auth/ldap ./auth/oidc ./auth/token ./backup ./jobs ./registry/... ./server ./sqldb ./storage/...'
race_flags=(-race '-gcflags=modernc.org/sqlite/lib=-race=false')
# Of these, what takes so long under it that a short form runs there (-short), and the whole without it.
long=./registry/...

run_tests() {
	local failed='' watched once others
	# shellcheck disable=SC2086 # patterns
	race=$(go list $race) long=$(go list $long)
	packages=$(go list "${packages[@]}")
	watched=$(grep -xF "$race" <<<"$packages" || true)
	once=$(grep -vxF "$long" <<<"$race")
	others=$(grep -vxF "$once" <<<"$packages" || true)
	# shellcheck disable=SC2086 # one argument per package
	if [ -n "$watched" ]; then
		CGO_ENABLED=1 go test "${flags[@]}" "${race_flags[@]}" -short -p 2 "${args[@]}" $watched || failed+=' race-tests'
	fi
	# -parallel 4: tests with real clients wait more than they compute, also on two cores.
	# shellcheck disable=SC2086
	if [ -n "$others" ]; then
		go test "${flags[@]}" -p 2 -parallel 4 "${args[@]}" $others || failed+=' tests'
	fi
	if [ -n "$failed" ]; then
		echo "FAILED:$failed"
		return 1
	fi
}

flags=(-timeout 60m)
if [ -n "${BERTH_TEST_SOAK:-}" ]; then # see testenv.Steps
	flags=(-timeout 24h -count=1)
fi
if [ -n "${BERTH_TEST_SERVERS:-}" ]; then # started by the lines below
	flags+=(-json -vet=off)               # scripts/check.sh has vetted all
	run_tests
	exit
fi
failed=
if [ "${packages[*]}" = ./... ]; then
	scripts/tools.sh
	scripts/check.sh || failed=' checks'
	verbose=
	if [[ " ${args[*]} " == *' -v '* ]]; then
		verbose=-v
	fi
	BERTH_TEST_SERVERS=yes go run ./testenv/withservers $verbose scripts/test.sh ./... || failed+=' tests'
else
	scripts/tools.sh for "${packages[@]}"
	if [ -n "$(go list "${packages[@]}" | grep -xF "$(go list $race)")" ]; then
		scripts/tools.sh gcc
	fi
	run_tests || failed=' tests'
fi
if [ -n "$failed" ]; then
	echo "FAILED:$failed"
	exit 1
fi
echo "all of it passed"
