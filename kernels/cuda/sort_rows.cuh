// Stable sort of row numbers by a key of each row, such as its token: a radix sort of our own, deterministic.
#pragma once
#include "kernels/core/device.h"
#include "kernels/cuda/common.cuh"

namespace electra::cuda {

struct SortRows {
  const int32_t* keys = nullptr;  // (rows), of 0 to key_limit - 1
  int rows = 0;                   // capacity; those before the last offset of `sequences` are sorted
  int64_t key_limit = 1;
  Sequences sequences;
};

// By key, then by row; in the workspace.
struct SortedRows {
  const int32_t *keys = nullptr, *rows = nullptr;  // (used rows)
};

size_t sort_rows_workspace(int64_t rows);
SortedRows sort_rows(const SortRows& args, Scratch& workspace, Stream& stream);

}  // namespace electra::cuda
