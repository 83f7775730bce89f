#!/bin/bash
#SBATCH --gres=gpu:1
#SBATCH --requeue
#SBATCH --open-mode=append
# The same as a job of Slurm; `make sweep ON=slurm` submits it. The folder that it was submitted from is on a disk that every
# node has: its .venv and its released weights are used. Other options: SBATCH_GRES=none, SBATCH_PARTITION=..., as sbatch takes them.
export PATH=$SLURM_SUBMIT_DIR/.venv/bin:$PATH WEIGHTS=${WEIGHTS:-$SLURM_SUBMIT_DIR/data/weights}
exec "$SLURM_SUBMIT_DIR/cluster/job.sh" "$@"
