# One window's stages, to be sourced: the window's folder, and how a stage begins and ends.
# shellcheck shell=bash

. "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

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
      echo "$(basename "$0"): ${receipt##*/windows/}: command $place of $#,${command:- in a pipeline}," \
        "failed with status $status" >&2
      return "$status"
    fi
  done
  mv "$receipt.part" "$receipt"
}
