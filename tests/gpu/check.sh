#!/usr/bin/env bash
# The CUDA kernels on a bare GPU machine, in under eight minutes: build, tests, sanitizer, benchmarks;
# the table comes last.
#
#   tests/gpu/check.sh [WHEELS]        (or: make gpu-check WHEELS=folder)
#
# Needs CUDA's nvcc (12.0 or newer), a C++17 compiler and a Python with a CUDA build of torch; the
# environment variable PYTHON names that Python. What else is missing comes from PyPI, or, without
# internet, from the folder WHEELS. Fill it on a machine like that one (same Python and platform):
#
#   python3 -m pip download --no-deps --only-binary=:all: -d WHEELS gsplat jaxtyping wadler-lindig \
#     imageio imageio-ffmpeg timm huggingface-hub safetensors pillow numpy typer rich pydantic \
#     pydantic-core scikit-build-core pathspec nanobind cmake ninja pytest pluggy iniconfig
#
# What the Python has already may be left out; if anything else is missing, pip names it. Results:
# build/gpu-check/ (benchmarks.json, logs).
set -uo pipefail
cd "$(dirname "$0")/../.."
began=$SECONDS
limit=${FIT3D_GPU_SECONDS:-470}
wheels=${1:+$(cd "$1" && pwd)}
python=${PYTHON:-python3}
out=$PWD/build/gpu-check
mkdir -p "$out"
unset PIP_CONSTRAINT  # the versions that CI pins are not the machine's
failed=0

say() { echo "== $((SECONDS - began)) s: $*"; }
die() { echo "gpu-check: $*" >&2; exit 3; }
left() { local rest=$((limit - SECONDS + began)); echo $((rest > 5 ? rest : 5)); }
within() {  # within SECONDS COMMAND...: at most that long, and not past the limit
  local most=$1; shift
  timeout --kill-after=5 "$(($(left) < most ? $(left) : most))" "$@"
}
step() {  # step NAME SECONDS COMMAND...: its last lines, and whether it failed
  local name=$1 most=$2; shift 2
  within "$most" "$@" >"$out/$name.log" 2>&1
  local code=$?
  tail -n "${lines:-3}" "$out/$name.log"
  ((code == 0)) || { say "$name FAILED ($code), see $out/$name.log"; failed=1; }
  return $code
}

arch=$("$python" - <<'PY'
import torch
if torch.cuda.is_available():
    print("%d.%d" % torch.cuda.get_device_capability())
PY
) || die "$python has no torch: install a CUDA build of it, or name another Python with PYTHON"
[[ -n $arch ]] || die "torch sees no CUDA device"
say "$("$python" -c 'import torch; print(torch.cuda.get_device_name(), "torch", torch.__version__)')"

# An environment of its own that sees everything the Python has, also if that is itself an environment.
env=$out/env
[[ -x $env/bin/python ]] || "$python" -m venv --without-pip "$env" || die "no environment"
"$python" - "$env" <<'PY'
import pathlib, site, sys, sysconfig
inner = next(pathlib.Path(sys.argv[1]).glob("lib*/python*/site-packages"))
outer = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()])
if site.ENABLE_USER_SITE:
    outer[site.getusersitepackages()] = None
(inner / "outer.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in outer))
PY
export PATH=$env/bin:$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH
install=("$env/bin/python" -m pip install --disable-pip-version-check -q)
[[ -n $wheels ]] && install+=(--no-index --find-links "$wheels")
lines=15 step tools 120 "${install[@]}" \
  'scikit-build-core>=0.10' 'nanobind>=2.4' cmake ninja pytest 'gsplat>=1.5' || exit 1

# gsplat compiles its extension on first use, which takes longest: it runs beside everything else.
export TORCH_CUDA_ARCH_LIST=$arch TORCH_EXTENSIONS_DIR=$out/extensions
MAX_JOBS=$(nproc) within 300 "$env/bin/python" -c 'from gsplat.cuda._backend import _C; assert _C' \
  >"$out/gsplat.log" 2>&1 &
gsplat=$!

say "build"
lines=15 step build 240 "${install[@]}" --no-build-isolation -C cmake.define.FIT3D_CUDA=ON -e . || {
  kill $gsplat 2>/dev/null; exit 1; }
say "built"

pytest=("$env/bin/python" -m pytest -q -m gpu -p no:cacheprovider -o filterwarnings=default)
lines=12 step tests 120 "${pytest[@]}" tests/splat/test_cuda.py tests/gpu/test_device.py \
  tests/gpu/test_lift.py
if sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null); then
  for tool in memcheck racecheck initcheck synccheck; do
    step $tool 45 "$sanitizer" --tool $tool --error-exitcode 9 "${pytest[@]}" tests/splat/test_cuda.py \
      -k "any_size or nothing_to_see or sparse_products"
  done
else
  say "no compute-sanitizer on this machine: skipped"
fi

say "waiting for gsplat's extension"
if wait $gsplat; then
  lines=12 step parity 60 "${pytest[@]}" tests/gpu/test_gsplat.py
else
  say "gsplat's extension was not built here (see $out/gsplat.log): no comparison with it"
fi

say "benchmarks"
lines=200 step benchmarks 240 "$env/bin/python" -m benchmarks.gpu \
  --seconds "$(($(left) < 240 ? $(left) - 45 : 180))" --out "$out/benchmarks.json"
exit $failed
