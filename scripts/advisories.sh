#!/usr/bin/env bash
# What RustSec's database says of the crates in Cargo.lock, for cargo-deny where that database cannot be fetched.
#   advisories.sh take DIR        from a checkout of https://github.com/RustSec/advisory-db (CC0) into advisories.jsonl
#   advisories.sh database DIR    from advisories.jsonl a database that cargo-deny reads, at DIR
# The first line of advisories.jsonl says of which commit and day it is, and the hash of the crates' names that it was taken for.
set -euo pipefail
lines=$(cd "$(dirname "$0")" && pwd)/advisories.jsonl
lock=$(dirname "$lines")/../Cargo.lock
names() { sed -n 's/^name = "\(.*\)"/\1/p' "$lock" | LC_ALL=C sort -u; }

case ${1:-}/${2:+dir} in
  take/dir)
    commit=$(git -C "$2" rev-parse HEAD)
    day=$(git -C "$2" log -1 --format=%cs)
    {
      jq -nc --arg commit "$commit" --arg day "$day" --arg crates "$(names | sha256sum | cut -d' ' -f1)" '$ARGS.named'
      names | python3 -c '
import json, pathlib, sys, tomllib
for name in map(str.strip, sys.stdin):
    for path in sorted(pathlib.Path(sys.argv[1], "crates", name).glob("RUSTSEC-*.md")):
        head, _, rest = path.read_text().partition("```toml\n")[2].partition("\n```")
        facts = tomllib.loads(head)
        advisory, versions = facts["advisory"], facts.get("versions", {})
        if "withdrawn" in advisory:
            continue
        title = next(line[2:] for line in rest.splitlines() if line.startswith("# "))
        print(json.dumps({"id": advisory["id"], "package": name, "date": str(advisory["date"]), "title": title,
            "informational": advisory.get("informational"), "patched": versions.get("patched", []),
            "unaffected": versions.get("unaffected", [])}, ensure_ascii=False))' "$2"
    } >"$lines.part"
    mv "$lines.part" "$lines"
    ;;
  database/dir)
    rm -rf "$2"
    mkdir -p "$2"
    jq -r 'select(.id) | "\(.package)\t\(.id)\t" + ("```toml
[advisory]
id = \(.id | tojson)
package = \(.package | tojson)
date = \(.date | tojson)
\(if .informational then "informational = \(.informational | tojson)\n" else "" end)
[versions]
patched = \(.patched | tojson)
unaffected = \(.unaffected | tojson)
```

# \(.title)

See https://rustsec.org/advisories/\(.id).html
" | @base64)' "$lines" | while IFS=$'\t' read -r package id text; do
      mkdir -p "$2/crates/$package"
      base64 -d <<<"$text" >"$2/crates/$package/$id.md"
    done
    # cargo-deny asks git for the day of what it reads.
    day=$(jq -r 'select(.day).day' "$lines")
    git -C "$2" init -q
    git -C "$2" add .
    GIT_COMMITTER_DATE="${day}T00:00:00Z" GIT_AUTHOR_DATE="${day}T00:00:00Z" \
      git -C "$2" -c user.name=advisories -c user.email= -c commit.gpgsign=false commit -qm "as of $day"
    [ "$(jq -r 'select(.day).crates' "$lines")" = "$(names | sha256sum | cut -d' ' -f1)" ] ||
      echo "check: crates came or went since $day: of new ones no advisory is known here (scripts/advisories.sh take)" >&2
    ;;
  *) echo 'advisories.sh take|database DIR' >&2; exit 2 ;;
esac
