# What the loops share, to be sourced: settings, the window's folder, and how a stage ends.
# shellcheck shell=bash

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() { # die STATUS ERROR HINT
  printf '%s: %s\nhint: %s\n' "$(basename "$0")" "$2" "$3" >&2
  exit "$1"
}

# Settings, KEY=value a line, the value in quotes or not; what the environment has wins.
settings() {
  local line key value number=0
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    line=${line%$'\r'}
    [[ $line =~ ^[[:space:]]*(#.*)?$ ]] && continue
    [[ $line =~ ^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*[^[:space:]])?[[:space:]]*$ ]] ||
      die 78 "$1, line $number: not KEY=value" 'see .env.example'
    key=${BASH_REMATCH[2]} value=${BASH_REMATCH[3]}
    case $value in
      \"*\" | \'*\') value=${value:1:-1} ;;
      '~/'*) value=$HOME/${value:2} ;;
    esac
    [ -n "${!key+set}" ] || export "$key=$value"
  done <"$1"
}
if [ -n "${BZ_ENV:-}" ]; then
  [ -f "$BZ_ENV" ] || die 78 "there is no file $BZ_ENV" 'BZ_ENV names the settings of the node'
  settings "$BZ_ENV"
elif [ -f .env ]; then
  settings .env
elif [ -f "$here/../.env" ]; then
  settings "$here/../.env"
fi
BZ_HOME=${BZ_HOME:-$HOME/.boltzmann}
case $BZ_HOME in /*) ;; *) BZ_HOME=$PWD/$BZ_HOME ;; esac
export BZ_HOME
# Threads that wait do not spin: several tools may share the machine.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
for tool in bz-window jq flock; do
  command -v $tool >/dev/null || die 78 "$tool is not on the PATH" 'make install, or start the loop with make miner; apt-get install jq util-linux'
done
# Whoever started this may hold its standard input open.
exec </dev/null

# enter W: the folder of a window is made, named by D (and Q, quoted for a command), and locked: stages that outlived a
# killed loop end first.
enter() {
  case $1 in '' | *[!0-9]*) die 2 "'$1' is no window's number" "$(basename "$0") 120" ;; esac
  D=$BZ_HOME/windows/$1
  Q=$(printf %q "$D")
  mkdir -p "$D" || exit 78
  exec 8>"$D/lock" && flock 8 || exit 78
}

# stage NAME PIPELINE: run a pipeline unless its receipt is there. With BZ_SHOW (`make window`) it is printed as it is run.
stage() {
  pipeline=$2
  if [ -s "$D/$1" ]; then
    [ -z "${BZ_SHOW:-}" ] || printf '# %s is there: %s/%s\n' "$1" "$Q" "$1" >&2
    return 0
  fi
  [ -z "${BZ_SHOW:-}" ] || printf '$ %s > %s/%s\n' "$2" "$Q" "$1" >&2
  eval "$2"' >"$D/$1.part"; finish "$D/$1" "${PIPESTATUS[@]}"'
}

# finish FILE STATUS...: keep a pipeline's output as the stage's receipt; or name the command that was the cause, the
# leftmost that failed, and return its status.
finish() {
  local receipt=$1 place=0 status command commands
  shift
  IFS='|' read -ra commands <<<"${pipeline:-}"
  for status in "$@"; do
    command=${commands[$place]:-}
    place=$((place + 1))
    if [ "$status" -eq 1 ]; then return 1; fi # the answer is no: the tool has said why
    if [ "$status" -ne 0 ]; then
      echo "$(basename "$0"): ${receipt##*/windows/}: command $place of $#,${command:- in a pipeline}, failed with status $status" >&2
      return "$status"
    fi
  done
  mv "$receipt.part" "$receipt"
}
