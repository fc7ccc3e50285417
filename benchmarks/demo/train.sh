#!/usr/bin/env bash
# Train the demo model and put it into the package: minutes on a GPU, hours on two cores. Run again to go
# on after a stop.
# Usage: benchmarks/demo/train.sh ENCODER SENTENCES REVIEWS
#   ENCODER    multilingual-e5-small, English cut (12 x 384), as a Hugging Face folder
#   SENTENCES  sentence polarity, REVIEWS polarity 2.0: folders of {train,validation,test}.jsonl.gz
set -euo pipefail
encoder=$1 sentences=$2 reviews=$3
python benchmarks/demo/prepare.py "$sentences" "$reviews" runs/demo_data runs/demo_certify
resume() { if [ -d "$1/.training" ]; then echo --resume; fi; }
magic-pyramid train --model "$encoder" --data runs/demo_data --output runs/demo --preset pyramid --target-speedup 4 \
  --max-length 512 --epochs finetune=3,soft_prune=1,hard_prune=1,distill_exits=2 --set train.dropout=0 \
  --set train.tokens_per_batch=4096 --seed 0 $(resume runs/demo)
python benchmarks/demo/package.py runs/demo "$sentences" "$reviews" runs/demo_certify
