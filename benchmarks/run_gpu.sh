#!/usr/bin/env bash
# One part of the GPU benchmarks into a folder; each part ends within nine minutes on one H100.
#   benchmarks/run_gpu.sh PART [FOLDER]     (default: benchmarks/results/gpu)
# Parts, the most valuable first:
#   tests      the kernels' tests on this GPU, and first-call times of attention by length
#   graph      B0 and B5 encoders at 1024x1024, batch 1 and 8, bf16, replayed as CUDA graphs, and at
#              2160x3840, batch 1
#   compile    the same through torch.compile at batch 8, with and without CUDA graphs; every model
#              compiles in a process of its own, B5 in three to five minutes on 16 cores
#   large      B0 and B5 encoders at 2160x3840, batch 1, compiled
#   peers      B0 and B5 encoders beside tomesd and Hugging Face
#   matching   the kernels of matching and of layers beside torch's, eager and compiled
#   vit        ALGM at fixed fractions, CTS and ToMe with their whole networks
#   images     ALGM and CTS on real images by threshold (needs data and CHECKPOINT)
#   train      training steps of B0, B2 and B5
#   unpadded   attention without padding beside a bias
#   table5     Segformer++, Table V: B5 in fp16 at five sizes, each model's best batch
# A row is written when it is measured: a part that is cut off leaves what it has, and measures the
# rest when it is run again; --force measures all of it anew, --list says what would run. A part
# writes at most four files: PART.csv, PART.log and, of kernels, a JSON each.
# Settings: SECONDS_OF_PART=520 RUNS=30 PRESETS="none hq fast n2d plus" PYTHON= CHECKPOINT= IMAGES=
# SMOKE=1 runs a part on the CPU at small sizes, to see that a machine has what it needs.

source "$(dirname "$0")/grid.sh"
PARTS="tests graph compile large peers matching vit images train unpadded table5"
RUNS=${RUNS:-30}
SMOKE=${SMOKE:-0}
LIMIT=${SECONDS_OF_PART:-520}
PART=${WORDS[0]:-}
OUT=${WORDS[1]:-benchmarks/results/gpu}
case " $PARTS " in
  *" $PART "*) [ -n "$PART" ] ;;
  *) false ;;
esac || { echo "error: ${PART:-no part} is no part, allowed are $PARTS." >&2; exit 2; }
SECONDS=0

on_gpu="--device cuda --warmup 5 --runs $RUNS"
if [ "$SMOKE" = 1 ]; then
  on_gpu="--device cpu --warmup 1 --runs 2"
elif [ "$LIST" = 0 ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "error: torch finds no GPU here (SMOKE=1 tries the part on the CPU)." >&2
  exit 1
fi
[ "$LIST" = 1 ] || mkdir -p "$OUT"
CSV=$OUT/$PART.csv
LOG=$OUT/$PART.log
[ "$FORCE" = 1 ] && [ "$LIST" = 0 ] && rm -f "$CSV" "$LOG" "$OUT/$PART.json"

# size H W: the size, or a small one in a trial.
size() {
  [ "$SMOKE" = 1 ] && echo "128 160" || echo "$1 $2"
}

# row NAME ARGUMENT...: one interleaved run, its rows added to the part's CSV; once for each NAME.
row() {
  local name=$1
  shift
  if [ -f "$LOG" ] && grep -qx "done: $name" "$LOG"; then
    echo "$name is there"
    return
  fi
  if [ "$LIST" = 1 ]; then
    echo "$name: tools/benchmark.py $*"
    return
  fi
  local left=$((LIMIT - SECONDS))
  if [ $left -lt 20 ]; then
    FAILED+=("$name (no time left, run the part again)")
    return
  fi
  echo "== $name, $left s left"
  local part=$CSV.part
  timeout $left "$PYTHON" tools/benchmark.py "$@" --csv "$part" >>"$LOG" 2>&1
  local status=$?
  if [ $status -ne 0 ]; then
    tail -n 1 "$LOG" >&2
    FAILED+=("$name (status $status)")
    rm -f "$part"
    return
  fi
  if [ -f "$CSV" ]; then tail -n +2 "$part" >>"$CSV"; else cat "$part" >"$CSV"; fi
  rm -f "$part"
  echo "done: $name" >>"$LOG"
}

# script NAME FILE ARGUMENT...: a script of its own, which writes the part's JSON.
script() {
  local name=$1
  shift
  if [ "$LIST" = 1 ]; then
    echo "$name: $*"
    return
  fi
  [ -f "$LOG" ] && grep -qx "done: $name" "$LOG" && { echo "$name is there"; return; }
  echo "== $name"
  if timeout $((LIMIT - SECONDS)) "$PYTHON" "$@" >>"$LOG" 2>&1; then
    echo "done: $name" >>"$LOG"
  else
    tail -n 3 "$LOG" >&2
    FAILED+=("$name")
  fi
}

encoders() { # ARCH BATCH MODE H W [ARGUMENT...]
  local arch=$1 batch=$2 mode=$3 height=$4 width=$5
  shift 5
  row "$PART ${arch} batch ${batch} ${mode:-eager} ${height}x${width}" $(mit_configs "$arch") \
    --part encoder --baselines fused --shape $(size "$height" "$width") --dtype bf16 \
    --batch-size "$batch" $on_gpu $mode "$@"
}

# side_by_side SIZE...: every model in a process of its own, then in turns; rows kept as they come.
side_by_side() {
  local steps="--rounds 6 --steps 3 --deadline $((LIMIT - 100))"
  [ "$SMOKE" = 1 ] && set -- b0:1x128x160:eager && steps="--device cpu --rounds 2 --steps 1"
  script "$PART" benchmarks/encoders_gpu.py --size "$@" --merging $PRESETS --csv "$CSV" $steps
}

graph=$([ "$SMOKE" = 1 ] || echo --cuda-graph)
case $PART in
  tests)
    if [ "$SMOKE" = 1 ]; then
      script "attention by length" benchmarks/lengths_gpu.py --device cpu --json "$OUT/tests.json"
    else
      script "attention by length" benchmarks/lengths_gpu.py --json "$OUT/tests.json"
      script "kernels" -m pytest -q -p no:cacheprovider tests/kernels tests/test_device_waits.py
    fi
    ;;
  graph) side_by_side 8x1024x1024:graph 1x2160x3840:graph 1x1024x1024:graph ;;
  compile) side_by_side b5:8x1024x1024:compile,compile-graph b0:8x1024x1024:compile,compile-graph ;;
  large) side_by_side 1x2160x3840:compile,compile-graph ;;
  peers)
    for arch in b0 b5; do
      for batch in 1 8; do
        encoders "$arch" "$batch" "" 1024 1024 $(peers huggingface tomesd tomesd-stock)
      done
    done
    ;;
  matching)
    if [ "$SMOKE" = 1 ]; then
      script "check" -c "from mmtokmerge.kernels.gpu import switch; print(switch.HAS_TRITON)"
    else
      script "layers" benchmarks/layers_gpu.py --compile --json "$OUT/layers.json"
      script "matching" benchmarks/matching_gpu.py --dtype bf16 --graphs --json "$OUT/matching.json"
    fi
    ;;
  vit)
    for arch in s b; do
      for batch in $([ "$SMOKE" = 1 ] && echo 1 || echo 32 1); do
        row "algm vit-$arch batch $batch" configs/algm/segmenter_vit-"$arch"_ade20k_{none,algm}.py \
          --shape 512 512 --kept 0.5 0.333 --dtype bf16 --batch-size "$batch" $on_gpu
        row "tome vit-$arch batch $batch" configs/algm/segmenter_vit-"$arch"_ade20k_{none,tome}.py \
          --shape 512 512 --dtype bf16 --batch-size "$batch" $on_gpu $graph
      done
    done
    row "cts vit-s" configs/cts/segmenter_vit-s_ade20k_{none,random}.py --shape 512 512 \
      --dtype bf16 --batch-size $([ "$SMOKE" = 1 ] && echo 1 || echo 32) $on_gpu
    ;;
  images)
    if [ -z "${CHECKPOINT:-}" ] || [ -z "${IMAGES:-}" ]; then
      echo "images needs CHECKPOINT (with thresholds) and IMAGES (a folder)" | tee -a "$LOG" >&2
      exit 1
    fi
    row "algm vit-s by threshold" configs/algm/segmenter_vit-s_ade20k_{none,algm}.py \
      --checkpoint "$CHECKPOINT" --images "$IMAGES" --num-images 50 --dtype bf16 $on_gpu
    ;;
  train)
    for arch in b0 b2 b5; do
      [ "$SMOKE" = 1 ] && [ "$arch" != b0 ] && continue
      row "train $arch" $(mit_configs "$arch") --train --batch-size $([ "$SMOKE" = 1 ] && echo 2 || echo 4) \
        --baselines fused --shape $(size 1024 1024) --dtype bf16 $on_gpu
    done
    ;;
  unpadded)
    if [ "$SMOKE" = 1 ]; then
      script "check" -c "from mmtokmerge.kernels.unpadded import attend_unpadded"
    else
      script "unpadded" benchmarks/unpadded_gpu.py --json "$OUT/unpadded.json"
    fi
    ;;
  table5)
    for shape in "512 512" "640 640" "1024 1024" "1024 2048" "2160 3840"; do
      row "table5 $shape" $(mit_configs b5) --dtype $([ "$SMOKE" = 1 ] && echo bf16 || echo fp16) \
        --shape $(size $shape) --batch-size $([ "$SMOKE" = 1 ] && echo 1 || echo auto) $on_gpu
    done
    ;;
esac

[ "$LIST" = 1 ] || echo "$PART took $SECONDS s: $OUT"
[ ${#FAILED[@]} -eq 0 ] && exit
printf 'not measured: %s\n' "${FAILED[@]}" | tee -a "$LOG" >&2
exit 1
