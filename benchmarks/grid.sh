# What run_cpu.sh and run_gpu.sh share; it is sourced.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
OUT=${OUT:-benchmarks/results}
PRESETS=${PRESETS:-"none hq fast n2d plus"}
FORCE=0
LIST=0
FAILED=()
WORDS=()

usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}

for argument in "$@"; do
  case $argument in
    --force) FORCE=1 ;;
    --list) LIST=1 ;;
    -h | --help) usage; exit 0 ;;
    -*) echo "error: $argument is unknown, allowed are --force, --list and --help." >&2; exit 2 ;;
    *) WORDS+=("$argument") ;;
  esac
done

# The configs of an arch, in every preset that has one.
mit_configs() {
  local preset
  for preset in $PRESETS; do
    [ -f "configs/segformerpp/$1_cityscapes_$preset.py" ] || continue
    echo "configs/segformerpp/$1_cityscapes_$preset.py"
  done
}

# Peers whose package is installed among those named.
peers() {
  "$PYTHON" -c "
import sys
from importlib.util import find_spec
packages = {'huggingface': 'transformers', 'tomesd': 'tomesd', 'tomesd-stock': 'tomesd'}
found = [name for name in sys.argv[1:] if find_spec(packages[name])]
print('--peers', *found) if found else None" "$@"
}

# measure NAME ARGUMENT...: benchmark into $OUT/NAME.csv unless that is there; whole or not at all.
measure() {
  local file=$OUT/$1.csv
  shift
  if [ -f "$file" ] && [ "$FORCE" = 0 ]; then
    echo "$file is there"
    return
  fi
  if [ "$LIST" = 1 ]; then
    echo "$file: tools/benchmark.py $*"
    return
  fi
  mkdir -p "$OUT"
  echo "== $file"
  "$PYTHON" tools/benchmark.py "$@" --csv "$file.part"
  local status=$?
  if [ $status -eq 0 ]; then
    mv "$file.part" "$file"
  elif [ $status -ge 128 ]; then
    exit $status
  else
    FAILED+=("$file")
  fi
}

# Write the tables, and say what is missing.
finish() {
  [ "$LIST" = 1 ] || [ "$OUT" != benchmarks/results ] || "$PYTHON" -m mmtokmerge tables
  [ ${#FAILED[@]} -eq 0 ] && return
  printf 'not measured: %s\n' "${FAILED[@]}" >&2
  exit 1
}
