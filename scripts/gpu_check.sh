#!/usr/bin/env bash
# What only a machine with a GPU can tell, in six minutes and one JSON: scripts/gpu_check.sh [DEVICE]
# [--out FILE]; see gpu_check.py. Ends with 1 if anything failed.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} CUBLAS_WORKSPACE_CONFIG=${CUBLAS_WORKSPACE_CONFIG:-:4096:8}
exec python scripts/gpu_check.py "$@"
