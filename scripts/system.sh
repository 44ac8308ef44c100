#!/usr/bin/env bash
# What the suite needs of the system, all at once: what is missing is named, and brought by apt-get where that may be done (as
# root, or by sudo without a password; SETUP_APT=no keeps it off). Else the one command that brings it is printed.
#
#   scripts/system.sh                 what the build, the loops and the demo need
#   scripts/system.sh pip venv        and Python's pip, its virtual environments, GNU parallel (`parallel`)
set -euo pipefail
PYTHON=${PYTHON:-python3}
RUST=1.95

# need PACKAGE WHAT TEST...: unless the test passes, WHAT is missing, and PACKAGE brings it.
need() {
  local package=$1 what=$2
  shift 2
  "$@" >/dev/null 2>&1 && return
  missing+=("$what")
  [ "$package" = - ] || case " ${packages[*]-} " in *" $package "*) ;; *) packages+=("$package") ;; esac
}
# What only GCC 11 and later know: the kernels are built for four levels of x86-64.
compiles() { echo '#include <omp.h>' | c++ -march=x86-64-v4 -fopenmp -fsyntax-only -x c++ -; }
recent_rust() {
  local version
  version=$(rustc --version | cut -d' ' -f2) && printf '%s\n' $RUST "$version" | sort -CV
}

trusts() { [ -n "${SSL_CERT_FILE:-}" ] || [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ]; }

look() { # look EXTRA...: fills `missing` and `packages`
  missing=() packages=()
  need gcc 'a C compiler (cc)' command -v cc
  if command -v c++ >/dev/null; then
    need - "a c++ that knows -march=x86-64-v4 and -fopenmp (GCC 11 or later)" compiles
  else
    need g++ 'a C++ compiler (c++)' command -v c++
  fi
  need make make command -v make
  need git git command -v git
  need jq jq command -v jq
  need curl curl command -v curl
  need ca-certificates 'the certificates that registries are known by' trusts
  need util-linux 'flock and setsid' eval 'command -v flock && command -v setsid'
  need python3 "Python ($PYTHON)" command -v "$PYTHON"
  local extra
  for extra in "$@"; do
    case $extra in
      pip) need python3-pip "pip of $PYTHON" "$PYTHON" -m pip --version ;;
      venv) need python3-venv "virtual environments of $PYTHON" "$PYTHON" -c 'import venv, ensurepip' ;;
      parallel) need parallel 'GNU parallel' command -v parallel ;;
      *) echo "system.sh: nothing is known of '$extra'" >&2; exit 2 ;;
    esac
  done
  rust=''
  recent_rust >/dev/null 2>&1 || rust="Rust $RUST or later (cargo, rustc)"
}

list() { # with commas between
  printf %s "$1"
  shift
  [ $# -eq 0 ] || printf ', %s' "$@"
}

look "$@"
if [ ${#packages[@]} -gt 0 ] && [ "${SETUP_APT:-yes}" != no ] && command -v apt-get >/dev/null; then
  as=()
  [ "$(id -u)" = 0 ] || as=(sudo -n)
  if "${as[@]}" true 2>/dev/null; then
    echo "setup: missing: $(list "${missing[@]}")" >&2
    echo "setup: apt-get install ${packages[*]} (SETUP_APT=no keeps this off)" >&2
    apt=("${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120)
    # What apt-get says is shown where it fails.
    said=$("${apt[@]}" update 2>&1 && "${apt[@]}" install -y --no-install-recommends "${packages[@]}" 2>&1) ||
      printf '%s\nsetup: apt-get failed\n' "$said" >&2
    look "$@"
  fi
fi
[ -z "$rust" ] || missing+=("$rust")
[ ${#missing[@]} -gt 0 ] || exit 0

printf 'setup: missing: %s\n' "$(list "${missing[@]}")" >&2
sudo=''
[ "$(id -u)" = 0 ] || sudo='sudo '
command=''
[ ${#packages[@]} -eq 0 ] || command="${sudo}apt-get update && ${sudo}apt-get install -y ${packages[*]}"
if [ -n "$rust" ]; then
  if command -v rustup >/dev/null; then rust='rustup update stable'; else rust='curl -sSf https://sh.rustup.rs | sh'; fi
  command="${command:+$command && }$rust"
fi
[ -z "$command" ] || printf 'hint: %s\n' "$command" >&2
exit 78
