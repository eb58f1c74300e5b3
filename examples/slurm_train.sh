#!/usr/bin/env bash
# Pretraining on two machines with four GPUs each:  sbatch examples/slurm_train.sh photos/ runs/street
#
# Not run on a cluster: its commands are parsed by a test, and training with several processes is tested on one machine.
#
# - One task for each GPU: Slurm starts the processes, so that --devices is not given.
# - A step takes 64 images x 8 processes, the 512 of the paper.
# - Slurm sends SIGTERM two minutes before the time ends, and at a preemption if the partition has a grace time. The run
#   saves a checkpoint and ends with 130. This script queues the job again after the end of its time; after a preemption
#   Slurm does so (--requeue), and a run that was killed goes on from its last checkpoint.
# - --resume continues the run in the folder. Without one there it begins a new run, so the first job needs no other
#   command. The images must be at the same path on all machines, or under a URL.
#SBATCH --job-name=gtsa
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=gtsa-%j.log
set -euo pipefail

IMAGES=${1:?usage: sbatch slurm_train.sh IMAGES RUN}
RUN=${2:?usage: sbatch slurm_train.sh IMAGES RUN}
INTERRUPTED=130

code=0
srun gtsa train "$IMAGES" --out "$RUN" --resume --batch-size 64 --epochs 300 || code=$?
if [ "$code" = "$INTERRUPTED" ]; then
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
[ "$code" = 0 ] || exit "$code"

# One process, on the first machine: writes the file behind the parity gate.
gtsa export "$RUN" --format onnx
