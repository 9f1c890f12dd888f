#!/usr/bin/env bash
# What only a machine with a GPU can tell: scripts/gpu_check.sh [DEVICE]
#
# Runs the tests marked `cuda` and the benchmark's steps on DEVICE (cuda; `cpu` tries the script
# itself), each for at most five minutes, and prints a table. Ends with 1 if any of them failed.
set -uo pipefail
cd "$(dirname "$0")/.."
device=${1:-cuda}
export ACGD_CUDA_TESTS_ON=$device PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

python - "$device" <<'PYTHON' || exit 1
import sys
import torch

device = sys.argv[1]
if device.startswith("cuda"):
    if not torch.cuda.is_available():
        sys.exit("gpu_check: there is no GPU here that torch can use")
    major, minor = torch.cuda.get_device_capability(device)
    print(f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}, ", end="")
print(f"device={device}, torch {torch.__version__}\n")
PYTHON

failed=0
row() { printf '%-42s %-8s %6s  %s\n' "$@"; }

# run NAME COMMAND...: the command's line of the table, and on failure the end of what it said
run() {
    local name=$1 log=$logs/$RANDOM start=$SECONDS verdict=ok status=0
    shift
    timeout 300 "$@" >"$log" 2>&1 || status=$?
    [ "$status" -eq 0 ] || verdict=FAILED failed=1
    [ "$status" -ne 124 ] || verdict="TIME UP"
    row "$name" "$verdict" "$((SECONDS - start)) s" "$(sed -n 's/^measured: //p' "$log" | paste -sd ';')"
    [ "$status" -eq 0 ] || tail -n 15 "$log" | sed 's/^/    /'
    last=$log
}

row check result time measured
while read -r test; do
    run "${test##*::test_}" python -m pytest -n 0 -q -s -p no:cacheprovider "$test"
done < <(python -m pytest -n 0 -q --collect-only -m cuda tests/test_cuda.py | grep ::)
run "time of a step" python scripts/benchmark.py --only steps --steps 5 --rounds 1 "device=$device"
printf '\n'
cat "$last"
exit "$failed"
