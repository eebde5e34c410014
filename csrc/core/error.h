// Errors of the native part. Bad arguments are std::invalid_argument (ValueError in Python),
// failures of the machine are std::runtime_error; the text is always "operator: what must hold, got
// what".
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace fastregion {

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

// Apart from check() and never inlined, so that a check in a hot loop is one compare and branch.
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const Parts&... parts) {
  throw std::invalid_argument(concat(parts...));
}

// check(rows > 0, "roi_align: rows must be positive, got ", rows);
template <class... Parts>
[[gnu::always_inline]] inline void check(bool holds, const Parts&... parts) {
  if (!holds) [[unlikely]]
    fail(parts...);
}

}  // namespace fastregion
