#!/usr/bin/env bash
# Set up what the build needs: the tools of the system (scripts/system.sh), and libtorch in .libtorch/.
#
#   scripts/setup.sh              libtorch for the CPU (544 MB from PyPI)
#   scripts/setup.sh cuda         with everything that libtorch needs on a GPU (2.5 GB)
#   TORCH=/path/to/site-packages/torch scripts/setup.sh
#                                 use that PyTorch 2.11 instead of downloading one
#
# A part that is there already is left alone, so this can be run at every build.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=2.11.0
MODE=${1:-cpu}
PREFIX=.libtorch
PYTHON=${PYTHON:-python3}
CPU_WHEELS="torch==$VERSION nvidia-cuda-cupti==13.0.85 nvidia-cuda-runtime==13.0.96"
CUDA_WHEELS="nvidia-cublas==13.1.0.3 nvidia-cuda-nvrtc==13.0.88 nvidia-cudnn-cu13==9.19.0.56
  nvidia-cufft==12.0.0.61 nvidia-cufile==1.15.1.6 nvidia-curand==10.4.0.35
  nvidia-cusolver==12.0.4.66 nvidia-cusparse==12.6.3.3 nvidia-cusparselt-cu13==0.8.0
  nvidia-nccl-cu13==2.28.9 nvidia-nvjitlink==13.0.88 nvidia-nvshmem-cu13==3.4.5"

die() { printf 'setup: %s\nhint: %s\n' "$1" "$2" >&2; exit 78; }

case "$MODE" in cpu | cuda) ;; *) die "unknown mode '$MODE'" "scripts/setup.sh [cpu|cuda]" ;; esac
[ "$(uname -sm)" = "Linux x86_64" ] || die "this is $(uname -sm)" "libtorch's wheels are for Linux on x86_64"
# pip alone puts libtorch there: once, and not where it comes from elsewhere.
is_there() {
  [ -n "${TORCH:-}" ] || [ -f "$PREFIX/.done-$MODE" ] ||
    { [ "$MODE" = cpu ] && { [ -f "$PREFIX/.done-cuda" ] || [ -L "$PREFIX/torch" ]; }; }
}
if is_there; then scripts/system.sh; else scripts/system.sh pip; fi
[ -f .cargo/config.toml ] || die ".cargo/config.toml is missing" "run this from a whole checkout"

link_view() {
  # The real libtorch.so needs libtorch_cuda.so, so it must not be linked: the build sees this
  # directory instead, where libtorch.so is a linker script over the CPU parts.
  mkdir -p "$PREFIX/link/lib"
  ln -sfn ../torch/include "$PREFIX/link/include"
  ln -sf ../../torch/lib/libtorch_cpu.so ../../torch/lib/libc10.so "$PREFIX/link/lib/"
  local gomp
  gomp=$(cd "$PREFIX/torch/lib" && find . -maxdepth 1 -name 'libgomp*.so*' | sort | head -n 1)
  [ -n "$gomp" ] || die "no libgomp beside libtorch in $PREFIX/torch/lib" "use the PyTorch $VERSION of PyPI"
  ln -sf "../../torch/lib/${gomp#./}" "$PREFIX/link/lib/libgomp.so"
  echo 'INPUT(AS_NEEDED(-ltorch_cpu -lc10))' >"$PREFIX/link/lib/libtorch.so"
  echo "$VERSION" >"$PREFIX/link/build-version"
}

if [ -n "${TORCH:-}" ]; then
  [ -f "$TORCH/lib/libtorch_cpu.so" ] || die "no libtorch_cpu.so under $TORCH/lib" \
    "point TORCH at the torch folder of a PyTorch $VERSION: python3 -c 'import torch; print(torch.__path__[0])'"
  found=$(sed -n "s/^__version__ = '\([0-9.]*\).*/\1/p" "$TORCH/version.py" 2>/dev/null || true)
  [ "$found" = "$VERSION" ] || die "$TORCH is PyTorch ${found:-of no known version}" "tch needs exactly $VERSION"
  mkdir -p "$PREFIX"
  if [ -e "$PREFIX/torch" ] && [ ! -L "$PREFIX/torch" ]; then rm -rf "$PREFIX/torch"; fi
  ln -sfn "$(cd "$TORCH" && pwd)" "$PREFIX/torch"
  link_view
  exit 0
fi
if ! is_there; then
  wheels=$CPU_WHEELS
  [ "$MODE" = cuda ] && wheels="$wheels $CUDA_WHEELS"
  echo "setup: libtorch $VERSION for $MODE into $PREFIX/ (once)" >&2
  if [ -L "$PREFIX/torch" ]; then rm "$PREFIX/torch"; fi
  # A target folder may sit beside a Python that forbids system installs: nothing of the system is touched.
  # shellcheck disable=SC2086
  PIP_BREAK_SYSTEM_PACKAGES=1 "$PYTHON" -m pip install --quiet --no-deps --no-compile --upgrade \
    --disable-pip-version-check --root-user-action=ignore --target "$PREFIX" $wheels ||
    die "pip could not install libtorch" "check the network and the free disk (1.2 GB), then run make setup again"
  touch "$PREFIX/.done-$MODE"
fi
link_view
