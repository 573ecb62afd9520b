#!/bin/bash
# Meta-trains on the GPUs of one or more nodes, one process a GPU:
#   sbatch launch/slurm.sh                                   Experiment 2 at the paper's settings
#   sbatch --nodes=2 launch/slurm.sh --flagfile=exp1.flags   other flags, other nodes
# A job that is about to end (time limit, preemption) saves a checkpoint; the same command, with RUN set to the run's
# folder, goes on from there. The folder of runs must be one that every node sees.
#SBATCH --job-name=mrlato
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=slurm-%j.out
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
run=${RUN:-runs/slurm-$SLURM_JOB_ID}
flags=("$@")
if [ -f "$run/config.json" ] || [ -f "$run/seeds.json" ]; then
  flags+=(--resume)
elif [ ${#flags[@]} -eq 0 ]; then
  flags=(--flagfile=exp2.flags)
fi
exec srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" .venv/bin/python launch/meta_train.py "${flags[@]}" --run="$run" --distributed
