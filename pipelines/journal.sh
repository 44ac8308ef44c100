# What a loop and its stages say, to be sourced: `journal` reads it from stdin and writes it to $BZ_HOME/log and to descriptor 3.
# shellcheck shell=bash

# journal: each line gets its time in UTC. What was said in the last ten minutes is counted in place of being said again, so that
# a stage that is tried for hours gives its reason once, and then six times an hour. The log takes BZ_LOG_BYTES, and one older
# file of that size stays beside it.
journal() {
  local log=$BZ_HOME/log limit=${BZ_LOG_BYTES:-16777216} copy=yes line key stamp size
  local -x LC_ALL=C TZ=UTC
  local -A said=() times=()
  # It ends when the last that speaks has ended, and not before.
  trap '' TERM INT HUP PIPE
  # Where the caller has sent stderr into this very file, one copy is enough.
  [ ! /dev/fd/3 -ef "$log" ] || copy=no
  size=$(stat -c %s "$log" 2>/dev/null || echo 0)
  while IFS= read -r -n 4096 line || [ -n "$line" ]; do
    # What peers named may hold a terminal's commands.
    line=${line//[[:cntrl:]]/ }
    [ -n "$line" ] || continue
    key="=$line"
    if [ $((EPOCHSECONDS - ${said[$key]:-0})) -lt 600 ]; then
      times[$key]=$((${times[$key]:-0} + 1))
      continue
    fi
    [ ${#said[@]} -lt 256 ] || { said=() times=(); }
    [ -z "${times[$key]:-}" ] || line="$line (${times[$key]} times more in between)"
    said[$key]=$EPOCHSECONDS
    times[$key]=
    printf -v stamp '%(%Y-%m-%dT%H:%M:%SZ)T' -1
    line="$stamp $line"
    if [ $((size + ${#line} + 1)) -gt "$limit" ]; then
      mv -f "$log" "$log.1"
      size=0
    fi
    size=$((size + ${#line} + 1))
    printf '%s\n' "$line" >>"$log"
    [ $copy = no ] || printf '%s\n' "$line" >&3
  done 2>/dev/null
}
