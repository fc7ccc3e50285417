#!/usr/bin/env bash
# Train the demo model and put it into the package: about an hour on two cores. Run again to go on after a stop.
# Usage: benchmarks/demo/train.sh ENCODER SENTENCES REVIEWS
#   ENCODER    multilingual-e5-small, English cut (12 x 384), as a Hugging Face folder
#   SENTENCES  sentence polarity, REVIEWS polarity 2.0: folders of {train,validation,test}.jsonl.gz
set -euo pipefail
encoder=$1 sentences=$2 reviews=$3
python benchmarks/demo/prepare.py "$sentences" "$reviews" runs/demo_data
resume() { if [ -d "$1/.training" ]; then echo --resume; fi; }
magic-pyramid train --model "$encoder" --data runs/demo_data --output runs/demo_finetuned --max-length 512 \
  --epochs finetune=1.2,soft_prune=0,hard_prune=0,distill_exits=0 --set train.dropout=0 --seed 0 \
  $(resume runs/demo_finetuned)
magic-pyramid train --model runs/demo_finetuned --data runs/demo_data --output runs/demo --max-length 512 \
  --epochs finetune=0,soft_prune=0.3,hard_prune=0.75,distill_exits=0.25 --set train.dropout=0 --seed 0 \
  $(resume runs/demo)
python benchmarks/demo/package.py runs/demo "$sentences" "$reviews"
