#include "kernels/embedding.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/cpu/common.h"

namespace electra {
namespace {

using cpu::clear;
using cpu::items_of;
using cpu::kRowsPerItem;
using cpu::put;
using cpu::put_sums;
using cpu::Scratch;
using cpu::used_rows;

constexpr int64_t kIdsPerItem = 256;   // entries of the word table a work item owns

void check_ids(const char* what, const Tensor& ids, int64_t table) {
  for (int64_t r = 0; r < ids.size(); ++r)
    if (ids.as<int32_t>()[r] < 0 || ids.as<int32_t>()[r] >= table)
      throw DataError("embedding", std::string(what) + " of row " + std::to_string(r) + " is " +
                                       std::to_string(ids.as<int32_t>()[r]) + ", expected 0 to " + std::to_string(table - 1));
}

void check_positions(const Tensor& offsets, int64_t positions) {
  const int32_t* o = offsets.as<int32_t>();
  for (int64_t s = 0; s + 1 < offsets.size(); ++s)
    if (o[s + 1] - o[s] > positions)
      throw DataError("embedding", "sequence " + std::to_string(s) + " has " + std::to_string(o[s + 1] - o[s]) +
                                       " tokens, expected at most " + std::to_string(positions) + " positions");
}

// word + position + segment of one row.
template <class T> struct Rows {
  const int32_t *ids, *segments;
  const T *word, *position, *segment;
  int64_t cols;
  template <class Args> explicit Rows(const Args& a)
      : ids(a.ids.template as<int32_t>()), segments(a.segments.template as<int32_t>()), word(a.word.template as<T>()),
        position(a.position.template as<T>()), segment(a.segment.template as<T>()), cols(a.word.cols()) {}
  void add(int64_t row, cpu::Place place, T* out) const {
    const T *w = word + ids[row] * cols, *s = segment + segments[row] * cols;
    const T* p = position + (place.sequence == cpu::kNoSequence ? 0 : place.position) * cols;
    for (int64_t c = 0; c < cols; ++c) out[c] = w[c] + p[c] + s[c];
  }
};

void forward_oracle(const EmbeddingForward& a) {
  const int64_t rows = a.ids.size(), cols = a.word.cols();
  const Rows<double> embedded(a);
  cpu::PlaceCursor cursor(a.sequence_offsets, a.state, 0);
  for (int64_t r = 0; r < rows; ++r) {
    const cpu::Place place = cursor.next();
    double* y = a.y.as<double>() + r * cols;
    embedded.add(r, place, y);
    const double origin = y[0];  // summed from there, the mean of a constant row is exact
    double mean = origin, variance = 0;
    for (int64_t c = 0; c < cols; ++c) mean += (y[c] - origin) / static_cast<double>(cols);
    for (int64_t c = 0; c < cols; ++c) variance += (y[c] - mean) * (y[c] - mean) / static_cast<double>(cols);
    const double rstd = 1 / std::sqrt(variance + a.eps);
    a.mean.as<double>()[r] = mean;
    a.rstd.as<double>()[r] = rstd;
    for (int64_t c = 0; c < cols; ++c) {
      const double keep = cpu::keep_factor(a.dropout, a.state, place, static_cast<uint32_t>(c / 8), static_cast<int>(c % 8));
      y[c] = ((y[c] - mean) * rstd * a.gamma.as<double>()[c] + a.beta.as<double>()[c]) * keep;
    }
  }
}

void forward(const EmbeddingForward& a, Stream& stream) {
  const int64_t rows = a.ids.size(), cols = a.word.cols();
  const Rows<float> embedded(a);
  stream.pool().parallel_for(items_of(rows, kRowsPerItem), [&](int64_t item, int) {
    const int64_t r = item * kRowsPerItem, n = std::min(kRowsPerItem, rows - r);
    float* const y = a.y.as<float>() + r * cols;
    cpu::PlaceCursor cursor(a.sequence_offsets, a.state, r);
    for (int64_t i = 0; i < n; ++i) embedded.add(r + i, cursor.next(), y + i * cols);
    const cpu::DropoutBlock dropout(a.dropout, a.state, a.sequence_offsets, r, n);
    // In place: a row is read whole before its first element is written.
    cpu::vector_kernels().layer_norm({.x = y,
                                      .residual = nullptr,
                                      .gamma = a.gamma.as<float>(),
                                      .beta = a.beta.as<float>(),
                                      .y = y,
                                      .sum = nullptr,
                                      .mean = a.mean.as<float>() + r,
                                      .rstd = a.rstd.as<float>() + r,
                                      .rows = n,
                                      .cols = cols,
                                      .eps = static_cast<float>(a.eps),
                                      .dropout = dropout.rows,
                                      .dropout_output = true});
  });
}

void backward_oracle(const EmbeddingBackward& a) {
  const int64_t rows = used_rows(a.sequence_offsets), cols = a.word.cols();
  const Rows<double> embedded(a);
  clear<double>(a.dword, a.dword_mode);
  clear<double>(a.dposition, a.dposition_mode);
  clear<double>(a.dsegment, a.dsegment_mode);
  clear<double>(a.dgamma, a.dgamma_mode);
  clear<double>(a.dbeta, a.dbeta_mode);
  double* const row = Scratch(a.workspace).take<double>(cols);
  cpu::PlaceCursor cursor(a.sequence_offsets, a.state, 0);
  for (int64_t r = 0; r < rows; ++r) {
    const cpu::Place place = cursor.next();
    embedded.add(r, place, row);
    const double mean = a.mean.as<double>()[r], rstd = a.rstd.as<double>()[r];
    const auto dy = [&](int64_t c) {
      const double keep = cpu::keep_factor(a.dropout, a.state, place, static_cast<uint32_t>(c / 8), static_cast<int>(c % 8));
      return a.dy.as<double>()[r * cols + c] * keep;
    };
    const auto xhat = [&](int64_t c) { return (row[c] - mean) * rstd; };
    double average = 0, average_xhat = 0;
    for (int64_t c = 0; c < cols; ++c) {
      average += dy(c) * a.gamma.as<double>()[c] / static_cast<double>(cols);
      average_xhat += dy(c) * a.gamma.as<double>()[c] * xhat(c) / static_cast<double>(cols);
    }
    for (int64_t c = 0; c < cols; ++c) {
      const double d = rstd * (dy(c) * a.gamma.as<double>()[c] - average - xhat(c) * average_xhat);
      if (a.dword_mode != GradMode::none) a.dword.as<double>()[embedded.ids[r] * cols + c] += d;
      if (a.dposition_mode != GradMode::none) a.dposition.as<double>()[place.position * cols + c] += d;
      if (a.dsegment_mode != GradMode::none) a.dsegment.as<double>()[embedded.segments[r] * cols + c] += d;
      if (a.dgamma_mode != GradMode::none) a.dgamma.as<double>()[c] += dy(c) * xhat(c);
      if (a.dbeta_mode != GradMode::none) a.dbeta.as<double>()[c] += dy(c);
    }
  }
}

// Scratch of the float backward.
struct BackwardScratch {
  float *dx, *sums, *partial, *segments;
  int32_t *starts, *order;
  BackwardScratch(const Tensor& workspace, int64_t rows, int64_t vocab, int64_t cols, int64_t segment_count) {
    const int64_t items = items_of(rows, kRowsPerItem);
    Scratch s(workspace);
    dx = s.take<float>(rows * cols);        // gradient of the summed embeddings
    sums = s.take<float>(rows * cols);      // the summed embeddings again
    partial = s.take<float>(items * 2 * cols);
    starts = s.take<int32_t>(vocab + 1);    // first entry of each id in order
    order = s.take<int32_t>(rows);          // used rows by id, then by row
    segments = s.take<float>(segment_count * cols);
  }
};

void sort_rows_by_id(const int32_t* ids, int64_t rows, int64_t vocab, int32_t* starts, int32_t* order) {
  std::fill_n(starts, vocab + 1, 0);
  for (int64_t r = 0; r < rows; ++r) ++starts[ids[r] + 1];
  for (int64_t v = 0; v < vocab; ++v) starts[v + 1] += starts[v];
  for (int64_t r = 0; r < rows; ++r) order[starts[ids[r]]++] = static_cast<int32_t>(r);
  // Every start has moved to the next id's: move back.
  for (int64_t v = vocab; v > 0; --v) starts[v] = starts[v - 1];
  starts[0] = 0;
}

void add_row(float* to, const float* from, int64_t cols) {
  for (int64_t c = 0; c < cols; ++c) to[c] += from[c];
}

void backward(const EmbeddingBackward& a, Stream& stream) {
  const int64_t rows = used_rows(a.sequence_offsets), cols = a.word.cols(), vocab = a.word.shape[0];
  const int64_t items = items_of(rows, kRowsPerItem);
  const Rows<float> embedded(a);
  const BackwardScratch s(a.workspace, a.ids.size(), vocab, cols, a.segment.shape[0]);
  stream.pool().parallel_for(items, [&](int64_t item, int) {
    const int64_t r = item * kRowsPerItem, n = std::min(kRowsPerItem, rows - r);
    cpu::PlaceCursor cursor(a.sequence_offsets, a.state, r);
    for (int64_t i = 0; i < n; ++i) embedded.add(r + i, cursor.next(), s.sums + (r + i) * cols);
    const cpu::DropoutBlock dropout(a.dropout, a.state, a.sequence_offsets, r, n);
    float* const dgamma = s.partial + item * 2 * cols;
    std::fill_n(dgamma, 2 * cols, 0.0f);
    cpu::vector_kernels().layer_norm_backward({.sum = s.sums + r * cols,
                                               .gamma = a.gamma.as<float>(),
                                               .mean = a.mean.as<float>() + r,
                                               .rstd = a.rstd.as<float>() + r,
                                               .dy = a.dy.as<float>() + r * cols,
                                               .dx = s.dx + r * cols,
                                               .dresidual = nullptr,
                                               .dx_accumulate = false,
                                               .dresidual_accumulate = false,
                                               .dgamma = dgamma,
                                               .dbeta = dgamma + cols,
                                               .rows = n,
                                               .cols = cols,
                                               .dropout = dropout.rows,
                                               .dropout_output = true});
  });
  put_sums(s.partial, items, 2 * cols, a.dgamma.as<float>(), cols, a.dgamma_mode);
  put_sums(s.partial + cols, items, 2 * cols, a.dbeta.as<float>(), cols, a.dbeta_mode);
  if (a.dword_mode != GradMode::none) {
    sort_rows_by_id(embedded.ids, rows, vocab, s.starts, s.order);
    stream.pool().parallel_for(items_of(vocab, kIdsPerItem), [&](int64_t item, int) {
      const int64_t end = std::min(vocab, (item + 1) * kIdsPerItem);
      for (int64_t id = item * kIdsPerItem; id < end; ++id) {
        float* const to = a.dword.as<float>() + id * cols;
        if (a.dword_mode == GradMode::write) std::fill_n(to, cols, 0.0f);
        for (int32_t i = s.starts[id]; i < s.starts[id + 1]; ++i) add_row(to, s.dx + s.order[i] * cols, cols);
      }
    });
  }
  if (a.dposition_mode != GradMode::none) {
    const int32_t* offsets = a.sequence_offsets.as<int32_t>();
    stream.pool().parallel_for(a.position.shape[0], [&](int64_t position, int) {
      float* const to = a.dposition.as<float>() + position * cols;
      if (a.dposition_mode == GradMode::write) std::fill_n(to, cols, 0.0f);
      for (int64_t q = 0; q + 1 < a.sequence_offsets.size(); ++q)
        if (offsets[q] + position < offsets[q + 1]) add_row(to, s.dx + (offsets[q] + position) * cols, cols);
    });
  }
  if (a.dsegment_mode != GradMode::none) {
    const int64_t elements = a.segment.size();
    std::fill_n(s.segments, elements, 0.0f);
    for (int64_t r = 0; r < rows; ++r) add_row(s.segments + embedded.segments[r] * cols, s.dx + r * cols, cols);
    for (int64_t i = 0; i < elements; ++i) put(a.dsegment.as<float>()[i], s.segments[i], a.dsegment_mode);
  }
}

template <class Args> void check_operands(const Args& a) {
  const int64_t rows = a.ids.size(), cols = a.word.cols();
  const DType type = a.word.dtype;
  check_operand("embedding", "ids", a.ids, {rows}, DType::i32);
  check_operand("embedding", "segments", a.segments, {rows}, DType::i32);
  check_operand("embedding", "word", a.word, {a.word.rows(), cols}, type);
  check_operand("embedding", "position", a.position, {a.position.rows(), cols}, type);
  check_operand("embedding", "segment", a.segment, {a.segment.rows(), cols}, type);
  check_operand("embedding", "gamma", a.gamma, {cols}, type);
  check_operand("embedding", "mean", a.mean, {rows}, type);
  check_operand("embedding", "rstd", a.rstd, {rows}, type);
  cpu::check_offsets("embedding", a.sequence_offsets, rows);
  check_draws("embedding", a.dropout, a.state);
  const auto check_entries = [](const char* what, const Tensor& table, int64_t most) {
    if (table.rows() < 1 || table.rows() > most)
      throw ShapeError("embedding", std::string(what) + " has shape " + table.shape.str() + ", expected 1 to " + std::to_string(most) + " rows");
  };
  if (cols < 1) throw ShapeError("embedding", "word has shape " + a.word.shape.str() + ", expected at least 1 column");
  check_entries("word", a.word, std::numeric_limits<int32_t>::max());
  check_entries("position", a.position, std::numeric_limits<int32_t>::max());
  check_entries("segment", a.segment, kMaxSegments);
}

}  // namespace

template <> size_t embedding_backward_workspace<Backend::cpu>(int64_t rows, int64_t vocab_size, int64_t cols, DType dtype) {
  if (dtype == DType::f64) return Scratch::bytes<double>(cols);
  return 2 * Scratch::bytes<float>(rows * cols) + Scratch::bytes<float>(items_of(rows, kRowsPerItem) * 2 * cols) +
         Scratch::bytes<int32_t>(vocab_size + 1) + Scratch::bytes<int32_t>(rows) + Scratch::bytes<float>(kMaxSegments * cols);
}

template <> void embedding_forward<Backend::cpu>(const EmbeddingForward& args, Stream& stream) {
  check_operands(args);
  check_operand("embedding", "beta", args.beta, args.gamma.shape, args.word.dtype);
  check_operand("embedding", "y", args.y, {args.ids.size(), args.word.cols()}, args.word.dtype);
  check_ids("id", args.ids, args.word.shape[0]);
  check_ids("segment", args.segments, args.segment.shape[0]);
  check_positions(args.sequence_offsets, args.position.shape[0]);
  cpu::dispatch_float("embedding", args.word.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) forward_oracle(args);
    else forward(args, stream);
  });
}

// Ids are those that forward has checked.
template <> void embedding_backward<Backend::cpu>(const EmbeddingBackward& args, Stream& stream) {
  const DType type = args.word.dtype;
  check_operands(args);
  check_operand("embedding", "dy", args.dy, {args.ids.size(), args.word.cols()}, type);
  check_gradient("embedding", "dword", args.dword_mode, args.dword, args.word.shape, type);
  check_gradient("embedding", "dposition", args.dposition_mode, args.dposition, args.position.shape, type);
  check_gradient("embedding", "dsegment", args.dsegment_mode, args.dsegment, args.segment.shape, type);
  check_gradient("embedding", "dgamma", args.dgamma_mode, args.dgamma, args.gamma.shape, type);
  check_gradient("embedding", "dbeta", args.dbeta_mode, args.dbeta, args.gamma.shape, type);
  check_workspace("embedding", args.workspace, embedding_backward_workspace<Backend::cpu>(args.ids.size(), args.word.shape[0], args.word.cols(), type));
  cpu::dispatch_float("embedding", args.word.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) backward_oracle(args);
    else backward(args, stream);
  });
}

}  // namespace electra
