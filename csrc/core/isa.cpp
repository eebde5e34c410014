#include "core/isa.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "core/error.h"

namespace fastregion {
namespace {

Isa machine_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi") &&
                  __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt") &&
                  __builtin_cpu_supports("popcnt");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512cd");
#if defined(FASTREGION_EMULATE_BF16_DOT)
  const bool bf16 = v4;
#else
  const bool bf16 = v4 && __builtin_cpu_supports("avx512bf16");
#endif
  return bf16 ? Isa::kAvx512Bf16 : v4 ? Isa::kAvx512 : v3 ? Isa::kAvx2 : Isa::kBaseline;
#else
  return Isa::kBaseline;
#endif
}

Isa choose_isa() {
  const char* wanted = std::getenv("FASTREGION_ISA");
  if (wanted == nullptr || *wanted == '\0') return machine_isa();
  for (const Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (std::string(wanted) == isa_name(isa)) return std::min(isa, machine_isa());
  }
  throw std::invalid_argument(
      concat("FASTREGION_ISA: must be baseline, avx2, avx512 or avx512_bf16, got '", wanted, "'"));
}

}  // namespace

Isa active_isa() {
  static const Isa isa = choose_isa();
  return isa;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "baseline";
  }
}

}  // namespace fastregion
