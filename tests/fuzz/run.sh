#!/usr/bin/env bash
# Fuzzes every parser and the C++ core for some seconds each; stops at the first thing that breaks.
#
#   tests/fuzz/run.sh SECONDS [BUILD]
#
# PYTHON names an interpreter with mdcm and atheris. BUILD is a CMake build directory with core_fuzz (MDCM_DEV=ON);
# without it the core is left out. Inputs that break something stay in the current directory as crash-*.
set -euo pipefail
seconds=$1
build=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
export OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "$build" ]; then
  "$build/core_fuzz" "$seconds" "${SEED:-0}" "$here/corpus/core"
fi
"$python" "$here/core_api.py" "$((400 * seconds))" --seed "${SEED:-1}"
for target in arrows bif dot gml graphml plan query spec run checkpoint table parquet npy picture; do
  # what is found new goes to the first corpus, which is thrown away
  mkdir "$work/$target"
  "$python" "$here/parsers.py" "$target" -max_total_time="$seconds" -seed="${SEED:-1}" -timeout=20 -rss_limit_mb=4096 -verbosity=0 \
    -print_final_stats=0 -max_len=4096 "$work/$target" "$here/corpus/$target"
  echo "$target: nothing broken"
done
