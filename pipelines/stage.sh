# What the loops share, to be sourced: settings, the window's folder, and how a stage ends.
# shellcheck shell=bash

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Settings: what the environment has wins over .env.
if [ -f "${BZ_ENV:-.env}" ]; then
  while IFS='=' read -r key value; do
    case $key in '' | \#*) continue ;; esac
    [ -n "${!key+set}" ] || export "$key=$value"
  done <"${BZ_ENV:-.env}"
fi
export BZ_HOME=${BZ_HOME:-$HOME/.boltzmann}

# folder W: the folder of a window, made.
folder() {
  mkdir -p "$BZ_HOME/windows/$1" && printf '%s\n' "$BZ_HOME/windows/$1"
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
