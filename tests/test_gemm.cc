// Matrix products: the op, and the block that other kernels call inside their work items.
#include <catch2/catch.hpp>
#include <cmath>

#include "kernels/core/error.h"
#include "kernels/cpu/gemm_block.h"
#include "kernels/dispatch.h"
#include "kernels/gemm.h"
#include "tests/gemm_kinds.h"
#include "tests/traffic.h"
#include "tests/op_test.h"

using namespace electra;
using namespace electra::test;

namespace {

struct Extents {
  int64_t m, n, k;
};

OpRecord record_of(Extents e, bool transpose_a, bool transpose_b, bool accumulate = false) {
  OpRecord record{.name = "gemm " + Shape{e.m, e.n, e.k}.str() + (transpose_a ? " Aᵀ" : "") + (transpose_b ? " Bᵀ" : "") +
                          (accumulate ? " +=" : "")};
  const Shape a = transpose_a ? Shape{e.k, e.m} : Shape{e.m, e.k}, b = transpose_b ? Shape{e.n, e.k} : Shape{e.k, e.n};
  record.inputs = {{"a", a, Random(1).normals(e.m * e.k)}, {"b", b, Random(2).normals(e.k * e.n)}};
  record.results = {{.name = "c", .shape = {e.m, e.n}, .cotangent = false}};
  if (accumulate) record.results[0].initial = Random(3).normals(e.m * e.n);
  const auto initial = record.results[0].initial;
  record.workspace = [e](DType, Backend backend) {
    return dispatch(backend, [&]<Backend B>() { return gemm_workspace<B>(e.m, e.n, e.k); });
  };
  record.forward = [=](const Arguments& t, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      gemm<B>({.a = t["a"], .b = t["b"], .c = t["c"], .transpose_a = transpose_a, .transpose_b = transpose_b,
               .accumulate = accumulate, .workspace = t["workspace"]},
              stream);
    });
  };
  record.naive_forward = [=](const Arguments& t) {
    for (int64_t i = 0; i < e.m; ++i)
      for (int64_t j = 0; j < e.n; ++j) {
        float sum = accumulate ? static_cast<float>(initial[static_cast<size_t>(i * e.n + j)]) : 0.0f;
        for (int64_t p = 0; p < e.k; ++p)
          sum += t.data<float>("a")[transpose_a ? p * e.m + i : i * e.k + p] *
                 t.data<float>("b")[transpose_b ? j * e.k + p : p * e.n + j];
        t.data<float>("c")[i * e.n + j] = sum;
      }
  };
  return record;
}

// On the device, by every kind of product, with c of the operands' type and in fp32. Operands are exact in bf16, so that c has one
// rounding to it (and what it accumulates to another), or none.
void check_on_device(Extents e, bool transpose_a, bool transpose_b, bool accumulate, double ulps = 2) {
  OpRecord record = record_of(e, transpose_a, transpose_b, accumulate);
  record.ulps = ulps;
  record.device_dtypes = {DType::f32, DType::bf16};
  record.bf16_ulps = accumulate ? 1.01 : 0.51;
  check_device_with_every_gemm(record);
  record.name += " in fp32";
  record.device_dtypes = {DType::bf16};
  record.results[0].statistic = true;
  record.bf16_ulps = 0x1p-15;  // 2 ulp of fp32
  check_device_with_every_gemm(record);
}

}  // namespace

// By hand: A = (1 2 3; 4 5 6), B = (7 8; 9 10; 11 12).
TEST_CASE("gemm: a product anyone can check, in all four layouts") {
  const std::vector<double> a{1, 2, 3, 4, 5, 6}, a_transposed{1, 4, 2, 5, 3, 6}, b{7, 8, 9, 10, 11, 12},
      b_transposed{7, 9, 11, 8, 10, 12};
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      for (const DType dtype : {DType::f64, DType::f32}) {
        OpRecord record = record_of({2, 2, 3}, ta, tb);
        record.inputs[0].values = ta ? a_transposed : a;
        record.inputs[1].values = tb ? b_transposed : b;
        Run run(record, dtype);
        run.forward();
        CHECK(run.values("c") == std::vector<double>{58, 64, 139, 154});
      }
}

TEST_CASE("gemm: layouts, accumulation and odd extents") {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      for (const bool accumulate : {false, true})
        for (const Extents& e : {Extents{1, 1, 1}, {3, 5, 7}, {65, 33, 17}, {64, 16, 48}, {129, 1, 31}, {2, 130, 64}}) {
          const OpRecord record = record_of(e, ta, tb, accumulate);
          check_kernel(record);
          check_determinism(record);
        }
}

TEST_CASE("gemm: sizes of ELECTRA") {
  for (const Extents& e : {Extents{70, 512, 128}, {300, 128, 256}, {64, 256, 1024}}) {
    check_kernel(record_of(e, false, true));
    check_kernel(record_of(e, true, false, true));
  }
  check_determinism(record_of({2100, 64, 128}, false, true));  // the larger work items
}

TEST_CASE("gemm on the device: layouts, accumulation and odd extents", kOnDevice) {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      for (const bool accumulate : {false, true})
        for (const Extents& e : {Extents{1, 1, 1}, {3, 5, 7}, {65, 33, 17}, {64, 16, 48}, {129, 1, 31}})
          check_on_device(e, ta, tb, accumulate);
}

// Multiples of 8 run on tensor cores. The ring of 4 slices of 32 wraps twice.
TEST_CASE("gemm on the device: tensor-core tiles, whole and not", kOnDevice) {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      for (const Extents& e : {Extents{8, 8, 8}, {64, 64, 64}, {72, 136, 40}, {136, 72, 296}}) check_on_device(e, ta, tb, e.m == 72);
  // Where one operand runs along k its stored rows must be aligned, but the other extents need not be.
  check_on_device({67, 131, 40}, false, true, true);   // m and n free
  check_on_device({67, 136, 296}, false, false, true); // m free
  check_on_device({72, 136, 301}, true, false, true);  // k free
  check_on_device({72, 131, 40}, true, true, true);    // n free
}

TEST_CASE("gemm on the device: split sums", kOnDevice) {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) check_on_device({40, 24, 1608}, ta, tb, ta);
  check_on_device({7, 3, 1100}, true, false, true);
  check_on_device({40, 24, 1101}, true, false, false);
  // The parts are rounded up to slices: three of 544 leave 1 for the last.
  check_on_device({8, 8, 3 * 512 + 97}, true, false, false);
}

// Enough tiles of 128 x 128 for the larger of the two shapes.
TEST_CASE("gemm on the device: large tiles", kOnDevice) {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      OpRecord record = record_of({1032, 1288, 40}, ta, tb);
      record.device_dtypes = {DType::bf16};
      record.bf16_ulps = 0.51;
      set_gemm_kind(GemmKind::own);
      check_device(record);
      set_gemm_kind(GemmKind::library);
    }
}

// What tiles of 64 x 64 imply, to the byte: each operand once for each tile across or down, in whole sectors; no bank conflicts.
TEST_CASE("gemm on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT) {
    set_gemm_kind(GemmKind::own);
    constexpr uint64_t kM = 256, kN = 128, kK = 320;
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        Run run(record_of({kM, kN, kK}, ta, tb), DType::bf16, {}, Backend::cuda);
        INFO("transposed " << ta << tb);
        const simt::Traffic traffic = moved([&] { run.forward(); });
        check_moved(traffic, 2 * (kM * kK * (kN / 64) + kK * kN * (kM / 64)), 2 * kM * kN);
        check_whole_sectors(traffic);
      }
    set_gemm_kind(GemmKind::library);
  }
}

TEST_CASE("gemm on the device: an empty sum is zero, or what was there", kOnDevice) {
  if constexpr (kHasCudaBackend)
    for_each_gemm_kind([](GemmKind) {
      for (const DType dtype : {DType::f32, DType::bf16})
        for (const bool accumulate : {false, true}) {
          OpRecord record = record_of({3, 5, 0}, false, true, accumulate);
          if (accumulate) record.results[0].initial = Random(3).integers(15, 9);
          Run run(record, dtype, {}, Backend::cuda);
          run.forward();
          CHECK(run.values("c") == (accumulate ? record.results[0].initial : std::vector<double>(15, 0.0)));
          Run none(record_of({0, 5, 4}, false, true), dtype, {}, Backend::cuda);
          none.forward();
          none.check_memory(false);
        }
    });
}

TEST_CASE("gemm on the device refuses what does not fit", kOnDevice) {
  if constexpr (kHasCudaBackend) {
    const auto error = [&](const char* name, const Shape& shape, DType dtype) {
      return refusal(record_of({40, 24, 1608}, false, true), {DType::bf16, Backend::cuda}, name, shape, dtype);
    };
    CHECK(error("a", {41, 1608}, DType::bf16) == "[gemm] a has shape (41, 1608), expected (40, 1608)");
    CHECK(error("b", {1608, 24}, DType::bf16) == "[gemm] b has shape (1608, 24), expected (24, 1608)");
    CHECK(error("b", {24, 1608}, DType::f32) == "[gemm] b has type f32, expected bf16");
    CHECK(error("c", {40, 24}, DType::f64) == "[gemm] c has type f64, expected bf16");
    CHECK(error("a", {40, 1608}, DType::f64) == "[gemm] expected f32 or bf16 on this device, got f64");
    CHECK(error("workspace", {100}, DType::u8).starts_with("[gemm] workspace has 100 bytes, expected at least "));
  }
}

TEST_CASE("gemm: the library unless set") { CHECK(gemm_kind() == GemmKind::library); }

TEST_CASE("gemm: an empty sum is zero, or what was there") {
  for (const DType dtype : {DType::f64, DType::f32}) {
    for (const bool accumulate : {false, true}) {
      const OpRecord record = record_of({3, 5, 0}, false, true, accumulate);
      Run run(record, dtype);
      run.forward();
      CHECK(run.values("c") == (accumulate ? record.results[0].initial : std::vector<double>(15, 0.0)));
    }
    Run none(record_of({0, 5, 4}, false, true), dtype);
    none.forward();
    none.check_memory(false);
  }
}

// A block inside larger matrices: rows are farther apart than they are long, and what lies between them is left alone.
TEST_CASE("gemm_block keeps to its leading dimensions") {
  constexpr int64_t kM = 5, kN = 19, kK = 12, kLda = 30, kLdb = 31, kLdc = 40;
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      for (const bool accumulate : {false, true}) {
        const std::vector<double> a_values = Random(1).normals(kLda * kK), b_values = Random(2).normals(kLdb * kN),
                                  c_values = Random(3).normals(kLdc * kM);
        const auto product = [&]<class T>(T) {
          std::vector<T> a(a_values.begin(), a_values.end()), b(b_values.begin(), b_values.end()), c(c_values.begin(), c_values.end());
          cpu::gemm_block({.m = kM, .n = kN, .k = kK, .transpose_a = ta, .transpose_b = tb, .accumulate = accumulate,
                           .lda = kLda, .ldb = kLdb, .ldc = kLdc},
                          a.data(), b.data(), c.data());
          return std::vector<double>(c.begin(), c.end());
        };
        const std::vector<double> in_float = product(0.0f), in_double = product(0.0);
        INFO("transposed " << ta << tb << ", accumulate " << accumulate);
        for (int64_t i = 0; i < kM; ++i)
          for (int64_t j = 0; j < kLdc; ++j) {
            const auto at = static_cast<size_t>(i * kLdc + j);
            double expected = c_values[at];
            if (j < kN) {
              if (!accumulate) expected = 0;
              for (int64_t p = 0; p < kK; ++p)
                expected += a_values[static_cast<size_t>(ta ? p * kLda + i : i * kLda + p)] *
                            b_values[static_cast<size_t>(tb ? j * kLdb + p : p * kLdb + j)];
            }
            CHECK(std::abs(in_double[at] - expected) <= 1e-14);
            CHECK(std::abs(in_float[at] - expected) <= 4e-6);
          }
      }
}

TEST_CASE("gemm refuses what does not fit") {
  const auto error = [&](const char* name, const Shape& shape, DType dtype) {
    return refusal(record_of({4, 6, 8}, false, true), {DType::f32, Backend::cpu}, name, shape, dtype);
  };
  CHECK(error("a", {5, 8}, DType::f32) == "[gemm] a has shape (5, 8), expected (4, 8)");
  CHECK(error("b", {8, 6}, DType::f32) == "[gemm] b has shape (8, 6), expected (6, 8)");
  CHECK(error("c", {4, 7}, DType::f32) == "[gemm] b has shape (6, 8), expected (7, 8)");
  CHECK(error("b", {6, 8}, DType::f64) == "[gemm] b has type f64, expected f32");
  CHECK(error("c", {4, 6}, DType::f64) == "[gemm] c has type f64, expected f32");
  Run integers(record_of({4, 6, 8}, false, true), DType::f32);
  for (auto& [name, tensor] : integers.arguments().tensors) tensor.dtype = DType::i32;
  CHECK(error_of<ShapeError>([&] { integers.forward(); }) == "[gemm] expected f32 or f64, got i32");
}

TEST_CASE("gemm on the device: a sweep of extents", kDeviceSweep) {
  Random random(11);
  for (int i = 0; i < 300; ++i) check_on_device({random.extent(200), random.extent(200), random.extent(400)}, i & 1, i & 2, i & 4, kSweepUlps);
}
