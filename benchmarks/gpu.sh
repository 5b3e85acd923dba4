#!/bin/sh
# Test the kernels on a GPU and measure the rows that need them, in under 8 minutes:
#   PYTHON=python3 sh benchmarks/gpu.sh FOLDER
# FOLDER contains the Toys log as log.inter. PYTHON has PyTorch for CUDA, pytest, hypothesis and
# what pyproject.toml lists under `dependencies`. Each part has its own limit of time, so that one
# that hangs does not cost the others theirs.
set -u
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
export PYTHONPATH="$PWD/src" PYTHONUNBUFFERED=1
timeout 120 "$python" -m pytest -q tests/gpu; failed=$?
for part in "90 softmax_kernels softmax_adam" "120 sasrec_epoch plain_epoch grpo_step" \
    "120 graphed_step"; do
    # shellcheck disable=SC2086 # the words of a part are its limit and its tasks
    set -- "$1" $part
    folder=$1 limit=$2
    shift 2
    timeout "$limit" "$python" benchmarks/gpu.py "$folder" --only "$@" || failed=1
    set -- "$folder"
done
exit "$failed"
