#!/bin/sh
# The whole path on scikit-learn's handwritten digits: a full-precision teacher, its binary twin, what it
# costs and what it is worth. RUNS is the directory to work in.
set -eu
RUNS=${RUNS:-runs/demo}
TEACHER=$RUNS/teacher
STUDENT=$RUNS/student
rm -rf "$RUNS"

say() { printf '\n\033[1m== %s\033[0m\n' "$1"; }
run() { printf '$ %s\n' "$*"; "$@"; }

say '1. Train a small full-precision teacher'
run irnet-convert train digits_teacher output="$TEACHER"

say '2. Plan its conversion: every layer, and why'
run irnet-convert plan "$TEACHER" --input-size 1x3x16x16

say '3. Binarize it and fine-tune with distillation from the original'
run accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
    -m irnet_convert.train digits model.checkpoint="$TEACHER/model.safetensors" output="$STUDENT"

say '4. Evaluate the saved run'
run irnet-convert eval "$STUDENT"

say '5. What it weighs and does'
run irnet-convert summarize "$STUDENT" --input-size 1x3x16x16

say 'Next'
cat <<END
The run is in $STUDENT: recipe.yaml, plan.json, metrics.jsonl, model.safetensors, checkpoints/.
Try a network of your own:
    . .venv/bin/activate
    irnet-convert plan timm/resnet18
END
