# The settings of a node, to be sourced by every script of this folder: BZ_ENV, else .env here, else .env of the checkout.
# shellcheck shell=bash

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() { # die STATUS ERROR HINT
  printf '%s: %s\nhint: %s\n' "$(basename "$0")" "$2" "$3" >&2
  exit "$1"
}

env_file=
for file in "${BZ_ENV:-}" "$PWD/.env" "$here/../.env"; do
  [ -n "$file" ] || continue
  if [ -f "$file" ]; then env_file=$(realpath "$file"); break; fi
  [ "$file" != "${BZ_ENV:-}" ] || die 78 "there is no file $file" 'BZ_ENV names the settings of the node'
done
# The shell reads it, as `set -a; . ./.env; set +a` does by hand, with the same result: what stands in the file wins over the
# environment. A loop's stages have the settings of their loop, also when the file was changed since.
if [ -n "$env_file" ] && [ "${BZ_SETTINGS:-}" != "$env_file" ]; then
  ! grep -q $'\r' "$env_file" || die 78 "$env_file has the line ends of Windows" "sed -i 's/\\r\$//' $env_file"
  trap 'die 78 "$env_file cannot be read as settings" "KEY=value a line, quotes around spaces: .env.example"' ERR
  set -a +u
  # shellcheck disable=SC1090
  . "$env_file"
  set +a -u
  trap - ERR
  export BZ_SETTINGS=$env_file
fi
BZ_HOME=${BZ_HOME:-$HOME/.boltzmann}
case $BZ_HOME in /*) ;; *) BZ_HOME=$PWD/$BZ_HOME ;; esac
export BZ_HOME
# Threads that wait do not spin: several tools may share the machine.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
for tool in bz-window jq flock setsid; do
  command -v $tool >/dev/null ||
    die 78 "$tool is not on the PATH" 'make install, or start with make miner; apt-get install jq util-linux'
done
# Whoever started this may hold its standard input open.
exec </dev/null
