#!/usr/bin/env bash
# The peers that we compare with, in a virtual environment (.venv/, 6 GB, once): PyTorch from the same wheels as
# .libtorch/, with all that its Python half wants, and Hugging Face transformers. Prints the Python to run.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -f .venv/.done ]; then
  echo "peers: PyTorch 2.11.0 and transformers into .venv/ (once)" >&2
  "${PYTHON:-python3}" -m venv .venv
  .venv/bin/pip install -q --disable-pip-version-check torch==2.11.0 transformers==4.57.1 safetensors numpy >&2
  touch .venv/.done
fi
echo .venv/bin/python
