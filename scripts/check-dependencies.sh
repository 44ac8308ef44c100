#!/usr/bin/env bash
# The dependency rule (tools/README.md), held with cargo tree; the licences, from the crates' own metadata.
set -euo pipefail
cd "$(dirname "$0")/.."
fail=0
no() { echo "check: $1" >&2; fail=1; }

members=$(cargo metadata --format-version 1 --no-deps --locked)
tools=$(jq -r '.packages[].name | select(startswith("bz-"))' <<<"$members")
libraries='record wire corpus model store chain wallet'
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
for library in $libraries; do
  for dependency in $(own "$library"); do
    [ "$dependency" = record ] || no "lib/$library depends on $dependency: libraries stand on record alone"
  done
done
# Who opens a hotkey: only these name WalletArgs::open.
openers=$(grep -lE 'wallet\.open(_coldkey)?\(\)' -r tools/bz-*/src | sed 's|tools/\([^/]*\)/.*|\1|' | sort -u | tr '\n' ' ')
[ "$openers" = 'bz-chain bz-delta bz-localnet bz-setweights bz-state ' ] || no "these open a key: $openers"

# Every licence has to let the suite be given on under MIT.
known='^(sp-|sc-|frame-|pallet-|substrate|binary-merkle|fork-tree)'
other=$(cargo tree --workspace --locked --offline -e normal,build --prefix none --format '{p}|{l}' | sort -u |
  grep -vE '\|.*(MIT|Apache-2.0|BSD|ISC|Zlib|Unicode|MPL-2.0|CC0|Unlicense|0BSD|BSL-1.0|CDLA-Permissive)' |
  grep -vE "$known" || true)
[ -z "$other" ] || no "licences to look at: $other"
# bz-localnet alone may carry a copyleft licence: it is a separate program for tests, and no other tool links it.
for tool in $tools; do
  [ "$tool" = bz-localnet ] && continue
  copyleft=$(cargo tree --locked --offline -p "$tool" -e normal --prefix none --format '{p} {l}' | grep -E ' GPL' | grep -vE 'MIT|Apache' || true)
  [ -z "$copyleft" ] || no "$tool links a copyleft crate: $copyleft"
done
[ -z "$(git ls-files | xargs -r grep -nE '\b(todo|unimplemented)!\(' -- 2>/dev/null | grep '\.rs:')" ] || no "todo! in the tree"
if command -v cargo-audit >/dev/null; then cargo audit --no-fetch --stale || fail=1; fi
[ $fail -eq 0 ] && echo "check: dependency rule and licences hold" >&2
exit $fail
