#!/usr/bin/env bash
# All GPU benchmarks into benchmarks/results, and the tables of benchmarks/README.md from them.
# What has its CSV already is skipped, so that a stopped run goes on: --force measures anew, --list
# only says what would run. Most urgent first: B5, bf16 and fp32.
# Settings: ARCHS="b5 b2 b0" DTYPES="bf16 fp32 fp16" BATCHES="1 8" MODES="compile eager graph
# compile-graph" SHAPES="--shape table5" PRESETS="none hq fast n2d plus" RUNS=30 OUT= PYTHON=

source "$(dirname "$0")/grid.sh"
ARCHS=${ARCHS:-"b5 b2 b0"}
DTYPES=${DTYPES:-"bf16 fp32 fp16"}
BATCHES=${BATCHES:-"1 8"}
MODES=${MODES:-"compile eager graph compile-graph"}
SHAPES=${SHAPES:-"--shape table5"}
RUNS=${RUNS:-30}
GPU=${GPU:-$("$PYTHON" -c 'import torch; from mmtokmerge.measure.machine import slug
print(slug(torch.cuda.get_device_name()) if torch.cuda.is_available() else "")')}
if [ -z "$GPU" ] && [ "$LIST" = 0 ]; then
  echo "error: torch finds no GPU here." >&2
  exit 1
fi
GPU=${GPU:-gpu}

flags_of() {
  case $1 in
    eager) ;;
    compile) echo "--compile" ;;
    graph) echo "--cuda-graph" ;;
    compile-graph) echo "--compile --cuda-graph" ;;
    *) echo "error: MODES: $1 is unknown." >&2; exit 2 ;;
  esac
}

for arch in $ARCHS; do
  for dtype in $DTYPES; do
    for batch in $BATCHES; do
      for mode in $MODES; do
        measure "encoder_${arch}_${dtype}_batch${batch}_${mode}_${GPU}" $(mit_configs "$arch") \
          --part encoder --limit --baselines stock fused $(peers huggingface tomesd) $SHAPES --device cuda \
          --dtype "$dtype" --batch-size "$batch" $(flags_of "$mode") --runs "$RUNS" --warmup 5
      done
    done
  done
done

# Table V as the paper has it: the whole network, each model at its best batch size.
measure "table5_b5_fp16_${GPU}" configs/segformerpp/b5_cityscapes_{none,hq,fast,n2d,plus}.py \
  --device cuda --dtype fp16 --shape table5 --batch-size auto --runs "$RUNS" --warmup 5

# Table III: training steps and peak memory, Cityscapes' and ADE20K's crops.
for arch in $ARCHS; do
  for dtype in fp32 bf16; do
    measure "train_${arch}_cityscapes_${dtype}_${GPU}" \
      configs/segformerpp/"$arch"_cityscapes_{none,hq,fast,n2d,plus}.py --train --batch-size 4 \
      --shape 1024 1024 --device cuda --dtype "$dtype" --runs "$RUNS" --warmup 5
    measure "train_${arch}_ade20k_${dtype}_${GPU}" \
      configs/segformerpp/"$arch"_ade20k_{none,hq,fast,n2d,plus}.py --train --batch-size 8 \
      --shape 640 640 --device cuda --dtype "$dtype" --runs "$RUNS" --warmup 5
  done
done

# Plain ViTs: half of the patches after CLAP, a third after GBM; one image, and 32 copies of it.
for arch in t s b l; do
  size=$([ $arch = l ] && echo "640 640" || echo "512 512")
  for dtype in fp32 bf16; do
    for batch in 1 32; do
      measure "algm_vit-${arch}_${dtype}_batch${batch}_${GPU}" \
        configs/algm/segmenter_vit-"$arch"_ade20k_{none,algm}.py --shape $size --kept 0.5 0.333 \
        --limit --device cuda --dtype "$dtype" --batch-size "$batch" --runs "$RUNS" --warmup 5
    done
  done
done

# Kernels alone, into JSON: Triton's matching, and attention without padding.
for script in matching unpadded; do
  file=$OUT/../kernels/${script}_${GPU}.json
  if [ "$LIST" = 1 ]; then
    echo "$file: benchmarks/${script}_gpu.py"
  elif [ ! -f "$file" ] || [ "$FORCE" = 1 ]; then
    mkdir -p "$(dirname "$file")"
    "$PYTHON" "benchmarks/${script}_gpu.py" --json "$file" || FAILED+=("$file")
  fi
done

finish
