#!/usr/bin/env bash
# Runs the official OCI conformance program (opencontainers/distribution-spec,
# folder conformance, `go build`) against a Berth started here: specification
# 1.1 and dev, on SQLite with a directory and on Postgres with MinIO, with every
# API and data switch on except sparse.
#
#   OCI_CONFORMANCE=/path/to/program scripts/conformance.sh
#
# The reports are dist/conformance/<version>-<backend>/{report.html,junit.xml,results.yaml}.
# Exit code 0 means 0 failures and 0 skips in all four.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${OCI_CONFORMANCE:?set it to the path of the official conformance program; see docs/operations.md}"
[ -x "$OCI_CONFORMANCE" ] || { echo "OCI_CONFORMANCE=$OCI_CONFORMANCE is not an executable file" >&2; exit 2; }
if [ -z "${BERTH_TEST_POSTGRES_URL:-}" ] || [ -z "${BERTH_TEST_S3_ENDPOINT:-}" ]; then
	export CI=true # a missing server is an error here
	exec go run ./testenv/withservers "$PWD/scripts/conformance.sh"
fi
export OCI_CONFORMANCE
exec go test -tags official -count=1 -v -timeout 30m -run '^TestOfficialProgram$' ./conformance
