#!/usr/bin/env bash
# The checks that need no server: formatting, vet, staticcheck, and that what
# is generated is what the tree holds. Says all that is wrong, then fails.
set -uo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -trimpath" # as in scripts/test.sh
failed=

step() { printf '== %s\n' "$*"; }
wrong() {
	printf '!! %s\n' "$*"
	failed=1
}

step gofmt
unformatted=$(git ls-files -co --exclude-standard '*.go' 2>/dev/null | xargs -r gofmt -l) || wrong "gofmt failed"
if [ -n "$unformatted" ]; then
	wrong "these files are not formatted; run 'make format':"
	echo "$unformatted"
fi

step go vet
{ go vet ./... && go vet -tags official ./conformance; } || wrong "go vet found something, see above"

step staticcheck
scripts/tools.sh staticcheck || exit 1
.cache/tools/staticcheck ./... || wrong "staticcheck found something, see above"

step generated files
# go generate runs in a copy, so that a check changes nothing here.
generators=$(grep -rl --include='*.go' '^//go:generate ' . 2>/dev/null | grep -v '^./\.cache/' | xargs -r -n 1 dirname | sort -u)
if [ -n "$generators" ]; then
	copy=$(mktemp -d)
	trap 'rm -rf "$copy"' EXIT
	git ls-files -co --exclude-standard -z | xargs -0 cp --parents -t "$copy" 2>/dev/null
	# shellcheck disable=SC2086 # one argument per directory
	(cd "$copy" && go generate $generators) || wrong "go generate failed"
	for file in $(cd "$copy" && find . -name '*.go' -o -name '*.md' | grep -v '^./\.git/'); do
		if ! cmp -s "$file" "$copy/$file"; then
			wrong "$file is not what its generator makes; run 'make generate'"
		fi
	done
fi

exit ${failed:+1}
