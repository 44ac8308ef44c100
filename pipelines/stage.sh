# What the loops share, to be sourced: settings, the window's folder, and how a stage ends.
# shellcheck shell=bash

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Settings: what the environment has wins over .env.
if [ -f "${BZ_ENV:-.env}" ]; then
  while IFS= read -r setting || [ -n "$setting" ]; do
    case $setting in '' | \#*) continue ;; esac
    key=${setting%%=*}
    [ -n "${!key+set}" ] || export "$key=${setting#*=}"
  done <"${BZ_ENV:-.env}"
fi
export BZ_HOME=${BZ_HOME:-$HOME/.boltzmann}

# enter W: the folder of a window is made, named by D, and locked: stages that outlived a killed loop end first.
enter() {
  D=$BZ_HOME/windows/$1
  mkdir -p "$D" || exit 78
  exec 8>"$D/lock" && flock 8
}

# finish FILE STATUS...: keep a pipeline's output as the stage's receipt; or say which stage was the cause, the
# leftmost that failed, and return its status.
finish() {
  local receipt=$1 place=0 status
  shift
  for status in "$@"; do
    place=$((place + 1))
    if [ "$status" -eq 1 ]; then return 1; fi # the answer is no: the tool has said why
    if [ "$status" -ne 0 ]; then
      echo "$(basename "$0"): ${receipt##*/windows/}: stage $place of $# failed with status $status" >&2
      return "$status"
    fi
  done
  mv "$receipt.part" "$receipt"
}

# `make window` shows each command as it is run.
if [ -n "${BZ_SHOW:-}" ]; then
  PS4='$ '
  set -x
fi
