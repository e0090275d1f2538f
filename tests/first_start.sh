#!/usr/bin/env bash
# Times the first start of a new user: a fresh clone of the last commit, a new environment, an empty cache.
#
#     bash tests/first_start.sh [demo] [segment]     # without a word both, some 20 minutes on two cores
#
# demo: `make demo`; segment: `jseg segment` on the examples with the shipped weights. Each begins with an empty cache and
# runs twice: what the first run takes longer is the compilation of kernels. Let nothing else run meanwhile.
set -euo pipefail
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HOME=$folder/home # the cache of pip too
mkdir "$HOME"
unset XDG_CACHE_HOME PYTHONPATH

timed() { # COMMAND…: the time that it takes, in $seconds; its output only if it fails
    local start=$EPOCHREALTIME
    "$@" > "$folder/log" 2>&1 || { tail -n 20 "$folder/log"; exit 1; }
    seconds=$(awk "BEGIN {print $EPOCHREALTIME - $start}")
}

row() { printf '%-48s %7.1f s\n' "$1" "$2"; }

first_start() { # NAME COMMAND…: core, kernels, work
    export JSEG_CACHE=$folder/cache_$1
    timed .venv/bin/python -c 'from jseg.runtime.start import start; start("cpu")'
    local name=$1 core=$seconds first work
    shift
    timed "$@"
    first=$seconds
    timed "$@"
    work=$seconds
    row "$name: core of Jittor" "$core"
    row "$name: kernels" "$(awk "BEGIN {print $first - $work}")"
    row "$name: work" "$work"
    row "$name: first start without the environment" "$(awk "BEGIN {print $core + $first}")"
}

timed git clone "$source" "$folder/clone"
cd "$folder/clone"
echo "$(nproc) processors, $(g++ -dumpfullversion) g++, commit $(git rev-parse --short HEAD), $(date -I)"
timed make .venv/installed
row "environment" "$seconds"
[ $# -gt 0 ] || set -- demo segment
for name in "$@"; do
    case $name in
        demo) first_start demo make demo ;;
        segment) first_start segment .venv/bin/jseg segment 'examples/*.jpg' --classes @examples/names.txt \
            --weights shapes --threshold 0.3 ;;
        *) echo "$name: choose from demo, segment" >&2 && exit 2 ;;
    esac
done
