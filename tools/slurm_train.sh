#!/usr/bin/env bash
# Train under slurm, one process a GPU:
#   GPUS=8 GPUS_PER_NODE=8 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]
# GPUS defaults to 4, GPUS_PER_NODE to 4, CPUS_PER_TASK to 5; SRUN_ARGS is passed to srun.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: GPUS=8 bash $0 PARTITION JOB_NAME CONFIG [arguments of tools/train.py]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3
shift 3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
# shellcheck disable=SC2086  # SRUN_ARGS holds several arguments
exec srun --partition="$partition" --job-name="$job" \
    --gres="gpu:${GPUS_PER_NODE:-4}" --ntasks="${GPUS:-4}" \
    --ntasks-per-node="${GPUS_PER_NODE:-4}" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$here/train.py" "$config" --launcher slurm "$@"
