#!/bin/bash
# One run of a sweep, on whatever machine: the commit is cloned, run, and what came of it pushed.
#
#     cluster/job.sh REPOSITORY COMMIT NAME [what else `dvc exp run` takes]
#
# WEIGHTS: a folder with the released weights that runs need, a folder a family, as `make weights` leaves them in data/weights.
set -euo pipefail
repository=$1 commit=$2 name=$3 weights=${WEIGHTS:+$(realpath "$WEIGHTS")}
shift 3

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
git clone --quiet "$repository" "$place/voice"
cd "$place/voice"
git checkout --quiet --detach "$commit"
[ -z "$weights" ] || cp --recursive --symbolic-link --no-clobber "$weights/." data/weights

# What others made before, like the tokens, comes from the DVC remote; what is not there is made again.
dvc exp run --temp --pull --name "$name" "$@"
# A job that begins again, because its machine was lost, takes the place of what it may have left.
dvc exp push --force origin "$name"
