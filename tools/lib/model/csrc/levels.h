// Which of the kernels a process uses: the best that its processor has, or those that BZ_CPU_LEVEL names.
#pragma once
#include "kernels.h"
#include <c10/util/Exception.h>
#include <cstdlib>
#include <string>
#include <type_traits>

struct Level {
  const char *name;
  bool there;
  const Kernels *kernels;
};

// From the least to the best. libtorch itself needs the first.
constexpr int LEVELS = 4;

static const Level *levels() {
  auto has = [](auto... yes) { return (yes && ...); };
  static const bool v3 = has(__builtin_cpu_supports("avx2"), __builtin_cpu_supports("fma"),
                             __builtin_cpu_supports("bmi2"));
  static const bool v4 = v3 && has(__builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx512bw"),
                                   __builtin_cpu_supports("avx512dq"), __builtin_cpu_supports("avx512vl"),
                                   __builtin_cpu_supports("avx512cd"));
  static const bool v4_bf16 = v4 && has(__builtin_cpu_supports("avx512bf16"));
  static const Level all[LEVELS] = {{"v2", true, &x86_64_v2::kernels},
                                    {"v3", v3, &x86_64_v3::kernels},
                                    {"v4", v4, &x86_64_v4::kernels},
                                    {"v4-bf16", v4_bf16, &x86_64_v4_bf16::kernels}};
  return all;
}

// The place of the level in use. One that is asked for and not there is an error: another in its stead would be tested,
// or measured, under a wrong name.
static int level() {
  static const int chosen = [] {
    const char *set = std::getenv("BZ_CPU_LEVEL");
    std::string name = set ? set : "";
    int best = 0;
    for (int place = 0; place < LEVELS; place++) {
      const Level &one = levels()[place];
      if (name == one.name) {
        TORCH_CHECK(one.there, "this machine has no ", name, ", which BZ_CPU_LEVEL asks for");
        return place;
      }
      if (one.there) best = place;
    }
    TORCH_CHECK(name.empty(), "BZ_CPU_LEVEL is ", name, ", not v2, v3, v4 or v4-bf16");
    return best;
  }();
  return chosen;
}

static const Kernels &kernels() { return *levels()[level()].kernels; }

template <class T> static const KernelsOf<T> &kernels_of() {
  if constexpr (std::is_same_v<T, float>) return kernels().f32;
  else return kernels().b16;
}
