#!/usr/bin/env bash
# The comparisons of learning rules in docs/results.md.
#   scripts/learning_rules.sh TABLE DATA [KIND SEED]...     default: every kind of the table, every seed, one after another
#   TABLE: cifar10   10,000 rows, 10 epochs, three seeds; DATA: a folder with CIFAR-10
#          cifar100  10,000 rows, 20 epochs, two seeds; DATA: a folder with CIFAR-100
#          tools     10,000 rows, 10 epochs, three seeds, self-distillation; DATA: a folder with CIFAR-10
#          two_stage 10,000 rows, 10 to 22 epochs, three seeds, the ANN twin first; DATA: a folder with CIFAR-10
#          two_stage100  the same on CIFAR-100, two seeds; DATA: a folder with CIFAR-100
#          dvs       4,000 simulated recordings, 10 epochs, two seeds; DATA: what `spikedistill data simulate-dvs` wrote
# A run that is finished is left alone, one that was stopped goes on. Results: runs/TABLE/KIND-SEED/result.json
set -euo pipefail -f  # no word is a pattern: [1,2,4] is a list
[ $# -ge 2 ] || { sed -n '2,10s/^# *//p' "$0" >&2; exit 2; }
table=$1 data=$2; shift 2
case $table in
  cifar10) recipe="cifar10-foundation" seeds="0 1 2" kinds="sd-divided nosoft-divided rate-divided bptt ann" ;;
  cifar100) recipe="cifar10-foundation --data.name cifar100 --optimizer.epochs 20" seeds="0 1" kinds="sd-divided nosoft-divided rate-divided bptt" ;;
  tools) recipe="cifar10-foundation" seeds="0 1 2" kinds="sgd adamw smooth mixup ema" ;;
  two_stage) recipe="cifar10-foundation" seeds="0 1 2" kinds="sd rate ann ann7-rate3 ann10-rate2 ann8-grow4 ann10-grow5 ann10-rate5 ann16-rate6" ;;
  two_stage100) recipe="cifar10-foundation --data.name cifar100 --optimizer.epochs 20" seeds="0 1" kinds="sd rate bptt ann20-rate6" ;;
  dvs) recipe="dvs-simulated" seeds="0 1" kinds="sd rate bptt" ;;
  *) echo "learning_rules.sh: no table '$table'; there are cifar10, cifar100, tools, two_stage, two_stage100, dvs" >&2; exit 2 ;;
esac
declare -A options=(
  [sd]=""
  [nosoft]="--objectives.self_distillation.teacher null"
  [rate]="--branches.enabled false"
  [bptt]="--rule bptt --branches.enabled false"
  [ann]="--rule ann --branches.enabled false"
  [rate-all]="--rule.loss_scale 1/T --branches.enabled false --optimizer.decayed all"
  [sd-all]="--rule.loss_scale 1/T --optimizer.decayed all"
  [sd-eager]="--rule.loss_scale 1/T --compile off"
  [rate-eager]="--rule.loss_scale 1/T --branches.enabled false --compile off"
  [sd-bf16]="--rule.loss_scale 1/T --precision bf16"
  [rate-divided]="--branches.enabled false --rule.loss_scale 1/T"
  [sd-divided]="--rule.loss_scale 1/T"
  [nosoft-divided]="--rule.loss_scale 1/T --objectives.self_distillation.teacher null"
  [sgd]="--rule.loss_scale 1/T"
  [adamw]="--rule.loss_scale 1/T --optimizer adamw --optimizer.warmup_epochs 1 --optimizer.schedule_per step"
  [smooth]="--rule.loss_scale 1/T --objectives.self_distillation.label_smoothing 0.1"
  [mixup]="--rule.loss_scale 1/T --data.augmentation.mixup 0.2"
  [ema]="--rule.loss_scale 1/T --optimizer.ema 0.99"
  [ann22]="--rule ann --branches.enabled false --optimizer.epochs 22"
  [ann7-rate3]="--branches.enabled false --phases.ann 7 --optimizer.epochs 10"
  [ann8-grow4]="--branches.enabled false --phases.ann 8 --optimizer.epochs 12 --phases.growing [1,2,4]"
  [ann10-grow5]="--branches.enabled false --phases.ann 10 --optimizer.epochs 15 --phases.growing [1,2,4]"
  [ann10-rate2]="--branches.enabled false --phases.ann 10 --optimizer.epochs 12"
  [ann10-rate5]="--branches.enabled false --phases.ann 10 --optimizer.epochs 15"
  [ann16-rate6]="--branches.enabled false --phases.ann 16 --optimizer.epochs 22"
  [ann16-sd5]="--phases.ann 16 --phases.branches false --optimizer.epochs 21"
  [ann20-rate6]="--branches.enabled false --phases.ann 20 --optimizer.epochs 26"
)
if [ $# -eq 0 ]; then
  set -- $(for seed in $seeds; do for kind in $kinds; do echo "$kind $seed"; done; done)
fi
mkdir -p "runs/$table"
while [ $# -gt 0 ]; do
  kind=$1 seed=$2 out=runs/$table/$1-$2; shift 2
  if [ -f "$out/result.json" ]; then continue; fi
  program="-m spikedistill"
  # a processor without bf16 units computes bf16 convolutions in fp32 and rounds them, in a tenth of the time
  if [ "$kind" = sd-bf16 ] && ! grep -q avx512_bf16 /proc/cpuinfo; then program=scripts/bf16_by_fp32.py; fi
  [ -n "${options[$kind]+given}" ] || { echo "learning_rules.sh: no kind '$kind'" >&2; exit 2; }
  # a process that was killed while it wrote a checkpoint has left the one before
  if [ -f "$out/checkpoint.pt" ] || [ -f "$out/checkpoint-before.pt" ]; then
    # shellcheck disable=SC2086
    python $program train --resume "$out" >> "$out.log" 2>&1 || { tail -1 "$out.log" >&2; exit 1; }
  else
    # shellcheck disable=SC2086
    python $program train $recipe --data.root "$data" --seed "$seed" --out "$out" ${options[$kind]} > "$out.log" 2>&1 || { tail -1 "$out.log" >&2; exit 1; }
  fi
  echo "$out done"
done
