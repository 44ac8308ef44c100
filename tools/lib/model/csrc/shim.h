// How the shim's functions tell what libtorch threw.
#pragma once
#include <ATen/ATen.h>
#include <exception>
#include <string>

extern thread_local std::string last_error;

template <class F> static int guarded(F f) {
  try {
    f();
    return 0;
  } catch (const std::exception &e) {
    last_error = e.what();
    return 1;
  }
}
