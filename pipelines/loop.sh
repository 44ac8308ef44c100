#!/usr/bin/env bash
# Window after window: loop.sh miner|validator [LAST]. One loop a node; a kill loses at most the running stage.
set -u
. "$(dirname "$0")/stage.sh"
role=${1:-}
last=${2:-}
case $role in
  miner | cheat) first=commit done=receipt ;;
  validator) first=base done=weights ;;
  *) die 2 "'$role' is neither miner nor validator" 'loop.sh miner|validator [LAST]' ;;
esac
hparams=${BZ_HPARAMS:-$BZ_HOME/hparams.json}
[ -f "$hparams" ] || die 78 "there is no $hparams" "copy the run's hparams.json there; BZ_HOME or BZ_HPARAMS says where"
mkdir -p "$BZ_HOME" || exit 78
exec 9>"$BZ_HOME/lock"
# One that was just killed may still be ending; its stages never hold this lock.
flock -w 15 9 || {
  echo "loop.sh: another loop runs in $BZ_HOME" >&2
  exit 75
}

# The window of this moment, and the run's first.
now() { bz-window 2>>"$BZ_HOME/log" | jq -r 'select(.type == "window").window'; }
start=$(jq -r .start_window "$hparams" 9>&-) || exit 78

W=
while :; do
  current=$(now 9>&-)
  if [ -z "$current" ]; then
    current=${W:-$start} # too early, or the chain is away: bz-window waits for both
  fi
  if [ -z "$W" ]; then
    # After a kill the window before may still be finished in time.
    W=$((current > start ? current : start))
    before=$BZ_HOME/windows/$((W - 1))
    if [ -s "$before/$first" ] && [ ! -s "$before/$done" ]; then W=$((W - 1)); fi
  else
    # A validator judges every window in its order; a miner does not look back.
    W=$((W + 1))
    if [ "$role" != validator ] && [ "$W" -lt "$current" ]; then W=$current; fi
    if [ "$role" = validator ] && [ "$W" -lt $((current - 1)) ]; then W=$((current - 1)); fi
  fi
  if [ -n "$last" ] && [ "$W" -gt "$last" ]; then exit 0; fi
  "$here/$role.sh" "$W" 9>&-
  status=$?
  case $status in
    0 | 1) ;;
    75 | 12[89] | 1[3-9][0-9] | 2[0-9][0-9]) # Something outside was away, or a stage was killed: the same window again.
      sleep 2 9>&-
      W=$((W - 1))
      ;;
    *)
      echo "loop.sh: window $W ended with status $status" >&2
      [ $status -eq 65 ] || exit $status
      ;;
  esac
done
