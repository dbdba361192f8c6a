// What tests of bad input look at.
#pragma once
#include <exception>
#include <string>

namespace electra::test {

// The message of the E that f throws, or what else happened.
template <class E, class F> std::string error_of(F f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another type of error: ") + error.what();
  }
  return "no error";
}

}  // namespace electra::test
