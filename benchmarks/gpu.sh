#!/usr/bin/env bash
# The first hour on a card: what breaks, how fast it is, and what comes out, in parts of a few minutes.
#
#   benchmarks/gpu.sh                         all parts, half an hour in all
#   benchmarks/gpu.sh --part b --minutes 9    one part; the same command again goes on with what is left of it
#   benchmarks/gpu.sh --dry_run               everything on the CPU with tiny networks, in a minute or two
#
#   a  what probably breaks first: every shipped configuration in three precisions, saved and resumed; overflows,
#      steps and solvers that wait for the device, DDP with torch.compile, FSDP2, SIGTERM
#   b  images per second of the training step, ours and a bare one, eager and compiled
#   c  images per second of sampling, by precision, compilation, batch and solver
#   d  a model of CIFAR-10, its grid, and the FID of 10,000 samples
#   e  a model of cars or aircraft at 64x64, and its grid
#
# Options
#   --output DIR    JSON files and pictures of the results (default: runs/gpu)
#   --work DIR      generated images, checkpoints and caches, several GB (default: runs/gpu_work)
#   --part PART     a, b, c, d or e; may be repeated (default: all)
#   --minutes N     time of each part (default: a 8, b 7, c 4, d 7, e 4); one that is running ends within a minute more,
#                   a distance within three
#   --only PATTERN  only entries whose names match, such as '*fp16*'; may be repeated
#   --again         also do what is done: part d and e then train on
#   --data DIR      folder that contains cifar10/, cars64/, aircraft64/ or stanford_cars/; may be repeated (also looked
#                   in: data/local, shared/data). Without a data set, speeds are of random images, and d and e train on
#                   another set; the results say which and why
#   --weights FILE  the Inception network of the FID (default: as for evaluate.py)
#   --wheels DIR    wheels of packages that python3 lacks, installed below --work: for a machine that has torch but no
#                   network. Otherwise, where there is no .venv and python3 lacks a package, `make .venv` is run
#   --dry_run       on the CPU; what needs CUDA is skipped and named
#
# The exit code is 1 if an entry failed, and 2 if nothing could be done.
set -euo pipefail

# Help, and the two options that are needed before Python.
wheels="" work="runs/gpu_work" rest=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
      exit 0
      ;;
    --wheels)
      [ $# -gt 1 ] && [ -d "$2" ] || { echo "error: --wheels ${2-} is not a folder: give one of .whl files." >&2; exit 2; }
      wheels=$(cd "$2" && pwd)
      shift 2
      ;;
    --work | --work=*)
      if [ "$1" = --work ]; then work=${2-} && shift; else work=${1#--work=}; fi
      [ -n "$work" ] || { echo "error: --work has no folder: give one." >&2; exit 2; }
      rest+=(--work "$work")
      shift
      ;;
    *)
      rest+=("$1")
      shift
      ;;
  esac
done
cd "$(dirname "$0")/.."

# A Python that has what the project needs.
needs="import importlib.util as i, sys
names = 'accelerate datasets diffusers docstring_parser huggingface_hub jsonargparse markdown matplotlib safetensors scipy '
names += 'sklearn torch torchvision yaml'
sys.exit(', '.join(name for name in names.split() if i.find_spec(name) is None) or 0)"
if [ -n "$wheels" ]; then
  python=$(command -v python3)
  site=$(mkdir -p "$work" && cd "$work" && pwd)/site
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" "$wheels"/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
elif [ -x .venv/bin/python ]; then
  python=.venv/bin/python
elif python3 -c "$needs" 2> /dev/null; then
  python=$(command -v python3)
else
  make .venv || {
    echo "error: make .venv failed; on a machine without network, give the missing packages with --wheels DIR." >&2
    exit 2
  }
  python=.venv/bin/python
fi
if ! missing=$("$python" -c "$needs" 2>&1); then
  echo "error: $python lacks packages (${missing##*$'\n'}): run make .venv, or add their wheels to --wheels DIR." >&2
  exit 2
fi

exec "$python" -m benchmarks.gpu "${rest[@]+"${rest[@]}"}"
