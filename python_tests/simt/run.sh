#!/usr/bin/env bash
# Runs the tests of the CUDA kernels on the host:  python_tests/simt/run.sh BUILD FOLDER [pytest ...]
#
#   BUILD   PLAIN    values, in several orders of threads and blocks
#           ADDRESS  the same under AddressSanitizer and UBSan
#           THREAD   ThreadSanitizer as a race checker: slow
#   FOLDER  where to build; kept between runs
#
# Needs the package installed in the current environment, with cmake, ninja and pybind11 beside it.
set -euo pipefail
build=$1
folder=$2
shift 2
cd "$(dirname "$0")/../.."

cmake -S . -B "$folder" -G Ninja -DFASTREGION_SIMT="$build" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_COMPILE_WARNING_AS_ERROR=ON -DPython_EXECUTABLE="$(command -v python)" \
  -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" > "$folder.log" 2>&1 || {
  cat "$folder.log"
  exit 1
}
cmake --build "$folder"

FASTREGION_SIMT_MODULE=$(ls "$folder"/_C*.so)
export FASTREGION_SIMT_MODULE FASTREGION_SIMT_SANITIZER=$build
# What is about the CPU kernels alone stays out: their threads are OpenMP's, unknown to a sanitizer.
tests=(python_tests/simt python_tests/ops --ignore python_tests/ops/test_cpu_kernels.py)
library() { "${CXX:-c++}" -print-file-name="$1"; }
case $build in
  ADDRESS)  # Python itself never frees all
    export ASAN_OPTIONS=detect_leaks=0
    LD_PRELOAD="$(library libasan.so) $(library libubsan.so)" \
      python -m pytest "${tests[@]}" "$@" ;;
  THREAD)  # it needs addresses where it expects them
    OMP_NUM_THREADS=1 LD_PRELOAD="$(library libtsan.so)" \
      setarch -R python -m pytest "${tests[@]}" "$@" ;;
  *) python -m pytest "${tests[@]}" "$@" ;;
esac
