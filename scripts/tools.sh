#!/usr/bin/env bash
# Gets the programs that the tests run against Berth or with Berth, and that
# are not here yet:
#
#   - from the distribution's packages, when this is a Debian-like system and we are root;
#   - from their Go modules, pinned below, built into .cache/tools of this tree;
#   - from npm, pinned by a lock file, into .cache/tools too.
#
#   scripts/tools.sh                  everything that `make test` needs (about 10 minutes on two cores, once)
#   scripts/tools.sh minio crane      these only
#   scripts/tools.sh for ./oci        what the tests of these packages need, which may be nothing
#   scripts/tools.sh needs ./server   print what that is, and get nothing
#
# Running it again costs nothing. The tests look into .cache/tools, then into PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

# name, Go package, version
built='
minio   github.com/minio/minio                          v0.0.0-20260212201848-7aac2a2c5b7c
crane   github.com/google/go-containerregistry/cmd/crane v0.22.1
regctl  github.com/regclient/regclient/cmd/regctl       v0.11.7
oras    oras.land/oras/cmd/oras                         v1.3.6
helm    helm.sh/helm/v3/cmd/helm                        v3.22.0
registry github.com/distribution/distribution/v3/cmd/registry v3.1.2
cosign  github.com/sigstore/cosign/v3/cmd/cosign        v3.1.3
kustomize sigs.k8s.io/kustomize/kustomize/v5          v5.7.1
staticcheck honnef.co/go/tools/cmd/staticcheck          v0.8.2
'

# program, Debian package that has it
packaged='
dockerd    docker.io
docker     docker.io
podman     podman
skopeo     skopeo
buildah    buildah
ctr        containerd
containerd containerd
prometheus prometheus
promtool   prometheus
docker-registry docker-registry
mariadbd   mariadb-server
gcc        gcc libc6-dev
openssl    openssl
slapd      slapd
ldapadd    ldap-utils
chromium   chromium
nginx      nginx
node       nodejs
npm        npm
pgbouncer  pgbouncer
strace     strace
'

# name, directory of its package.json and package-lock.json
npm='
oidc-provider testenv/oidcprovider
'

# what a test calls, and the tools that it needs for that
called='
testenv.Postgres postgres
testenv.MinIO    minio
testenv.Slapd    slapd ldapadd
testenv.OIDC     oidc-provider node npm
'

say() { printf 'tools: %s\n' "$*" >&2; }

build() { # name package version
	local dir=.cache/tools
	if [ -x "$dir/$1" ] && [ "$(cat "$dir/.$1.version" 2>/dev/null)" = "$2@$3" ]; then
		return
	fi
	say "building $1 $3 from its Go module"
	mkdir -p "$dir"
	# Without what debuggers want, which -s -w drops anyway, compiling takes a seventh less.
	if ! (cd / && GOBIN="$OLDPWD/$dir" GOFLAGS='' CGO_ENABLED=0 go install -trimpath -gcflags=all=-dwarf=false -ldflags='-s -w' "$2@$3" 2> >(grep -v '^go: downloading' >&2)); then
		say "could not build $1 ($2@$3). Is the Go module proxy reachable (go env GOPROXY)?"
		exit 1
	fi
	echo "$2@$3" >"$dir/.$1.version"
}

install_npm() { # name directory
	local dir=.cache/tools/$1
	if cmp -s "$2/package-lock.json" "$dir/package-lock.json" && [ -e "$dir/node_modules/.package-lock.json" ]; then
		return
	fi
	if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
		say "node and npm are not installed, which $1 needs: apt-get install nodejs npm, or https://nodejs.org; the tests that need it skip (with CI set they fail)."
		return
	fi
	say "installing $1 from npm"
	mkdir -p "$dir"
	cp "$2/package.json" "$2/package-lock.json" "$dir/"
	if ! (cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2); then
		rm -f "$dir/package-lock.json"
		say "could not install $1. Is the npm registry reachable (npm config get registry)?"
		exit 1
	fi
}

# needs prints the tools that the tests of packages use, a name a line. It reads the files of the packages
# that import testenv, and those of the helpers that they import: testenv.Tool(t, "name") names a tool, and so does a
# "name" where the argument of Tool is a variable.
needs() { # package...
	local dir file files=() what tools name
	while read -r dir; do
		files+=("$dir"/*.go)
	done < <(go list -f '{{.Dir}}' "$@")
	while read -r dir; do
		for file in "$dir"/*.go; do
			case $file in
			"$PWD"/testenv/* | *_test.go) ;;
			*) files+=("$file") ;;
			esac
		done
	done < <(go list -deps -test -f '{{if .Module}}{{if .Module.Main}}{{.Dir}}{{end}}{{end}}' "$@" | sort -u)
	mapfile -t files < <(grep -lE '"berth/testenv"' "${files[@]}" | sort -u)
	if [ ${#files[@]} -eq 0 ]; then
		return
	fi
	{
		while read -r what tools; do
			if [ -n "$what" ] && grep -qF "$what" "${files[@]}"; then
				tr ' ' '\n' <<<"$tools"
			fi
		done <<<"$called"
		grep -ohE 'testenv\.Tool\(t, "[a-z-]+"' "${files[@]}" | sed 's/.*"\(.*\)"/\1/' || true
		if grep -qE 'testenv\.Tool\(t, [^"]' "${files[@]}"; then
			while read -r name _; do
				if [ -n "$name" ] && grep -qF "\"$name\"" "${files[@]}"; then
					echo "$name"
				fi
			done <<<"$built$packaged$npm"
		fi
	} | sort -u
}

# wanted reports whether a tool is among those that were asked for.
wanted() { [ -n "$all" ] || [[ " ${only[*]-} " == *" $1 "* ]]; }

install_packages() {
	local program package missing=()
	while read -r program package; do
		if [ -n "$program" ] && wanted "$program" && ! command -v "$program" >/dev/null; then
			# shellcheck disable=SC2206 # a line may name several packages
			missing+=($package)
		fi
	done <<<"$packaged"
	# Postgres is no program in PATH on Debian: its servers live by version.
	if wanted postgres && ! command -v initdb >/dev/null && ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && [ -z "${BERTH_TEST_POSTGRES_URL:-}" ]; then
		missing+=(postgresql)
	fi
	if [ ${#missing[@]} -eq 0 ]; then
		return
	fi
	if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
		say "not installed: ${missing[*]}. Install these packages, or run this as root on Debian; the tests that need them skip (with CI set they fail)."
		return
	fi
	say "installing packages: ${missing[*]}"
	# Installing must not start services: the tests start what they need, privately.
	local policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		trap "rm -f $policy" EXIT
	fi
	export DEBIAN_FRONTEND=noninteractive
	local log
	log=$(mktemp)
	if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		say "installing the packages failed; the messages of apt-get are above. Is the package mirror reachable? Run 'apt-get update' by hand."
		exit 1
	fi
	rm -f "$log"
}

all=yes only=()
case ${1:-} in
needs)
	needs "${@:2}"
	exit
	;;
for)
	all=
	mapfile -t only < <(needs "${@:2}")
	say "the tests of ${*:2} need ${only[*]:-no tools}"
	;;
?*)
	all='' only=("$@")
	;;
esac
known=" postgres gcc mariadb-install-db "
while read -r name _; do
	known+="$name "
done <<<"$built$packaged$npm"
for name in "${only[@]}"; do
	if [[ $known != *" $name "* ]]; then
		say "there is no tool '$name' to get"
		exit 1
	fi
done
install_packages
while read -r name package version; do
	if [ -n "$name" ] && wanted "$name"; then
		build "$name" "$package" "$version"
	fi
done <<<"$built"
while read -r name directory; do
	if [ -n "$name" ] && wanted "$name"; then
		install_npm "$name" "$directory"
	fi
done <<<"$npm"
