// GELU (erf) and the vector functions it is made of.
#include <catch2/catch.hpp>
#include <cmath>

#include "kernels/activation.h"
#include "kernels/core/error.h"
#include "tests/op_test.h"

using namespace electra;
using namespace electra::test;

namespace {

OpRecord gelu_record(const Shape& shape, std::vector<double> x) {
  OpRecord record{.name = "gelu " + shape.str()};
  record.inputs = {{"x", shape, std::move(x)}};
  record.results = {{"y", shape}};
  record.gradients = {{"x"}};
  record.forward = [](const Arguments& a, Stream& stream) { gelu_forward<Backend::cpu>({.x = a["x"], .y = a["y"]}, stream); };
  record.backward = [](const Arguments& a, Stream& stream) {
    gelu_backward<Backend::cpu>({.x = a["x"], .dy = a["dy"], .dx = a["dx"], .dx_mode = a.mode("dx")}, stream);
  };
  record.naive_forward = [](const Arguments& a) {
    for (int64_t i = 0; i < a["x"].size(); ++i) {
      const float v = a.data<float>("x")[i];
      a.data<float>("y")[i] = 0.5f * v * (1.0f + std::erf(v * 0.70710678f));
    }
  };
  record.naive_backward = [](const Arguments& a) {
    for (int64_t i = 0; i < a["x"].size(); ++i) {
      const float v = a.data<float>("x")[i];
      const float cdf = 0.5f * (1.0f + std::erf(v * 0.70710678f)), density = 0.39894228f * std::exp(-0.5f * v * v);
      a.data<float>("dx")[i] = a.data<float>("dy")[i] * (cdf + v * density);
    }
  };
  return record;
}

}  // namespace

TEST_CASE("gelu: gradients, kernel, modes, determinism") {
  for (const int64_t n : {1, 7, 15, 16, 17, 31, 33, 255, 256, 1000}) check_op(gelu_record({n}, Random(1).normals(n, 2)));
  check_op(gelu_record({33, 1024}, Random(2).normals(33 * 1024, 3)));
}
