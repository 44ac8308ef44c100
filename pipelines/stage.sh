# One window's stages, to be sourced: the window's folder, and how a stage begins and ends.
# shellcheck shell=bash

. "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

# enter W: the folder of a window is made, named by D (and Q, quoted for a command), and locked: stages that outlived a
# killed loop end first; after an hour that is given up, to be tried again.
enter() {
  case $1 in '' | *[!0-9]*) die 2 "'$1' is no window's number" "$(basename "$0") 120" ;; esac
  D=$BZ_HOME/windows/$1
  Q=$(printf %q "$D")
  mkdir -p "$D" || exit 78
  exec 8>"$D/lock" || exit 78
  if ! flock -n 8; then
    echo "$(basename "$0"): another process is at window $1: it is waited for" >&2
    flock -w 3600 8 || die 75 "another process is still at window $1" "fuser -v $Q/lock names it"
  fi
  # What killed stages had begun goes; who writes such a file holds its lock, as the tools' own sweep has it.
  find "$D" -name '.part-*' -type f -exec flock -n {} rm -f {} \;
}

# stage NAME PIPELINE: run a pipeline unless its receipt is there. With BZ_SHOW (`make window`) it is printed as it is run.
stage() {
  local shown=$2
  pipeline=$2
  if [ -s "$D/$1" ]; then
    [ -z "${BZ_SHOW:-}" ] || printf '# %s is there: %s/%s\n' "$1" "$Q" "$1" >&2
    return 0
  fi
  # A long one is printed over several lines, and can be pasted all the same.
  [ ${#2} -lt 90 ] || shown=${2// | / |$'\n'    }
  [ -z "${BZ_SHOW:-}" ] || printf '$ %s > %s/%s\n' "$shown" "$Q" "$1" >&2
  eval "$2"' >"$D/$1.part"; finish "$D/$1" "${PIPESTATUS[@]}"'
}

# finish FILE STATUS...: keep a pipeline's output as the stage's receipt; or name the command that was the cause, the
# leftmost that failed, and return its status. Who only wrote to one that had ended (141) is no cause where another failed.
finish() {
  local receipt=$1 place=0 status cause=0 command commands
  shift
  IFS='|' read -ra commands <<<"${pipeline:-}"
  for status in "$@"; do
    place=$((place + 1))
    [ "$status" -ne 0 ] || continue
    [ $cause -eq 0 ] || [ "${!cause}" -eq 141 ] || break
    cause=$place
  done
  if [ $cause -eq 0 ]; then
    mv "$receipt.part" "$receipt"
    return
  fi
  status=${!cause}
  # Where the answer is no, the tool has said why.
  if [ "$status" -ne 1 ]; then
    read -r command <<<"${commands[cause - 1]:-one of a pipeline}"
    echo "$(basename "$0"): ${receipt##*/windows/}: command $cause of $#, $command, failed with status $status" >&2
  fi
  return "$status"
}
