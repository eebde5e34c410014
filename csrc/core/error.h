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

// check(rows > 0, "roi_align: rows must be positive, got ", rows);
template <class... Parts>
void check(bool holds, const Parts&... parts) {
  if (!holds) throw std::invalid_argument(concat(parts...));
}

}  // namespace fastregion
