#!/usr/bin/env bash
# Follow the chain into $BZ_HOME/chain for every tool of this node: bz-window --follow, started again when it ends by itself.
# A loop has one of its own (BZ_FOLLOW=no keeps it off); where cron or other tools read there too, systemd may run it alone.
set -u
. "$(dirname "$0")/settings.sh"
child=
stop() {
  trap '' TERM INT HUP
  [ -z "$child" ] || kill "$child" 2>/dev/null
  wait
  exit 0
}
trap stop TERM INT HUP

pause=2
while :; do
  since=$SECONDS
  # Who follows for a script that was killed ends with it.
  if command -v setpriv >/dev/null; then
    setpriv --pdeathsig TERM bz-window --follow >/dev/null &
  else
    bz-window --follow >/dev/null &
  fi
  child=$!
  wait "$child"
  status=$?
  case $status in
    0) exit 0 ;;
    2 | 78)
      echo "follow.sh: bz-window --follow ended with status $status: the tools ask a node themselves" >&2
      exit $status
      ;;
  esac
  # It followed for a while: what ended it is new.
  [ $((SECONDS - since)) -lt 60 ] || pause=2
  echo "follow.sh: bz-window --follow ended with status $status, and is started again after a pause" >&2
  sleep $pause &
  child=$!
  wait "$child"
  child=
  pause=$((pause < 30 ? pause * 2 : 60))
done
