#!/usr/bin/env bash
# All CPU benchmarks, fp32, into benchmarks/results, and the tables of benchmarks/README.md from them.
# What has its CSV already is skipped, so that a stopped run goes on: --force measures anew, --list
# only says what would run. Leave the machine alone meanwhile; B5 takes hours.
# Settings: THREADS=2 ARCHS="b0 b2 b5" SIZES="512x512 640x640 1024x1024 1024x2048 2160x3840"
# PARTS="encoder kept limit options train model algm cts" RIVALS="--baselines fused" (instead of all that fit into memory)
# PRESETS="none hq fast n2d plus" RUNS= (of each size, by default 5 to 15) WARMUP=2 OUT= PYTHON=

source "$(dirname "$0")/grid.sh"
THREADS=${THREADS:-2}
WARMUP=${WARMUP:-2}
ARCHS=${ARCHS:-"b0 b2 b5"}
PARTS=${PARTS:-"encoder kept limit options train model algm cts"}
SIZES=${SIZES:-"512x512 640x640 1024x1024 1024x2048 2160x3840"}

runs_of() {
  case $1 in
    512x512 | 640x640) echo "${RUNS:-15}" ;;
    1024x1024) echo "${RUNS:-11}" ;;
    1024x2048) echo "${RUNS:-9}" ;;
    *) echo "${RUNS:-5}" ;;
  esac
}

# Attention that stores its scores, stock and Hugging Face's, needs tens of GiB at 4K.
rivals_of() {
  if [ -n "${RIVALS:-}" ]; then
    echo "$RIVALS"
  elif [ "$1" = 2160x3840 ]; then
    echo "--baselines fused $(peers tomesd)"
  else
    echo "--baselines stock fused $(peers huggingface tomesd tomesd-stock)"
  fi
}

# Encoders of every arch and size, into CSVs whose names begin with the first argument.
encoders() {
  for arch in $ARCHS; do
    for size in $SIZES; do
      measure "$1_${arch}_${size}_cpu" $(mit_configs "$arch") --part encoder --limit \
        $(rivals_of "$size") --shape ${size/x/ } --threads "$THREADS" --runs "$(runs_of "$size")" \
        --warmup "$WARMUP"
    done
  done
}

encoder() {
  encoders encoder
}

# The same where glibc keeps what is freed, so that no memory is mapped anew.
kept() {
  MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000 encoders kept
}

# Our own encoders alone, against what merging could win.
limit() {
  RIVALS="--baselines none" encoders limit
}

# Options that no preset has, beside the presets.
options() {
  for arch in $ARCHS; do
    [ -f "benchmarks/options/${arch}_turbo.py" ] || continue
    measure "options_${arch}_1024x1024_cpu" configs/segformerpp/"$arch"_cityscapes_{none,fast,plus}.py \
      benchmarks/options/"$arch"_*.py --part encoder --baselines fused --shape 1024 1024 \
      --threads "$THREADS" --runs "${RUNS:-9}" --warmup "$WARMUP"
  done
}

# Training steps (Table III's columns) on crops of ADE20K, and on CamVid's.
train() {
  for arch in $ARCHS; do
    measure "train_${arch}_512x512_cpu" configs/segformerpp/"$arch"_ade20k_{none,hq,fast,n2d,plus}.py \
      --train --batch-size 2 --shape 512 512 --threads "$THREADS" --runs "${RUNS:-5}" --warmup "$WARMUP"
  done
  measure train_b0_288x352_cpu configs/segformerpp/b0_camvid_{none,hq,fast,n2d,plus}.py --train \
    --batch-size 4 --shape 288 352 --threads "$THREADS" --runs "${RUNS:-9}" --warmup "$WARMUP"
}

# The whole network, and the head alone.
model() {
  measure model_b0_cpu \
    configs/segformerpp/b0_camvid_{none,hq,hq_proportional,fast,fast_proportional,n2d,plus,downsample}.py \
    --shape 360 480 --shape 512 512 --shape 640 640 --shape 1024 1024 --shape 1024 2048 \
    --threads "$THREADS" --runs "${RUNS:-9}" --warmup "$WARMUP"
  measure head_b0_cpu configs/segformerpp/b0_cityscapes_none.py --part head --shape 1024 1024 \
    --threads "$THREADS" --runs "${RUNS:-9}"
}

# Plain ViTs: half of the patches after CLAP, a third after GBM.
algm() {
  for arch in t s b; do
    for part in encoder model; do
      measure "algm_vit-${arch}_${part}_512x512_cpu" \
        configs/algm/segmenter_vit-"$arch"_ade20k_{none,algm}.py --part "$part" --shape 512 512 \
        --kept 0.5 0.333 --limit --threads "$THREADS" --runs "${RUNS:-15}"
    done
  done
}

# Token sharing without a policy's time: chance picks as many superpatches as a network would.
cts() {
  for arch in s; do
    measure "cts_vit-${arch}_512x512_cpu" configs/cts/segmenter_vit-"$arch"_ade20k_{none,random}.py \
      --shape 512 512 --threads "$THREADS" --runs "${RUNS:-15}"
  done
}

for part in $PARTS; do
  case $part in
    encoder | kept | limit | options | train | model | algm | cts) $part ;;
    *) echo "error: PARTS has $part, allowed are encoder, kept, limit, options, train, model, algm and cts." >&2; exit 2 ;;
  esac
done

finish
