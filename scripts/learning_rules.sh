#!/usr/bin/env bash
# The comparison of docs/results.md, table 1: 10,000 rows of CIFAR-10, five learning rules, three seeds each.
#   scripts/learning_rules.sh FOLDER_WITH_CIFAR10 [KIND SEED]...     default: every kind, seeds 0 1 2, one after another
# A run that is finished is left alone, one that was stopped goes on. Results: runs/rules/KIND-SEED/result.json
set -euo pipefail
data=$1; shift
declare -A options=(
  [sd]=""
  [nosoft]="--loss.teacher null"
  [rate]="--branches.enabled false"
  [bptt]="--propagation bptt --branches.enabled false --loss.scale 1"
  [ann]="--propagation ann --timesteps null --branches.enabled false --loss.scale 1"
  [rate-all]="--branches.enabled false --optimizer.decayed all"
  [sd-all]="--optimizer.decayed all"
)
if [ $# -eq 0 ]; then
  set -- $(for seed in 0 1 2; do for kind in sd nosoft rate bptt ann; do echo "$kind $seed"; done; done)
fi
mkdir -p runs/rules
while [ $# -gt 0 ]; do
  kind=$1 seed=$2 out=runs/rules/$1-$2; shift 2
  if [ -f "$out/result.json" ]; then continue; fi
  if [ -f "$out/checkpoint.pt" ]; then
    python -m spikedistill train --resume "$out" >> "$out.log" 2>&1
  else
    # shellcheck disable=SC2086
    python -m spikedistill train cifar10-foundation --data.root "$data" --seed "$seed" --out "$out" ${options[$kind]} > "$out.log" 2>&1
  fi
  echo "$out done"
done
