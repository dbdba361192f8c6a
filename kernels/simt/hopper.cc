// What Hopper adds: mbarriers, bulk copies, wgmma (PTX ISA, "mbarrier", "cp.async.bulk.tensor", "wgmma").
#include "kernels/simt/hopper.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/simt/schedule.h"
#include "kernels/tensor_map.h"

namespace electra::simt {

namespace {

constexpr int kGroupSize = 128;  // threads of a warpgroup

struct BarrierState {
  int arrivals = 0, pending = 0;
  int64_t bytes = 0;  // expected and not there yet
  uint32_t phase = 0;
  std::vector<Lane*> waiting;
  Clocks clocks;
};

// One wgmma of a warpgroup. Until it is performed, the accumulators hold NaN and their values are kept in an Accumulator.
struct Wgmma {
  int columns = 0;
  bool a_in_registers = false, transposed_b = false, accumulate = false;
  uint64_t a = 0, b = 0;
  std::array<float*, kGroupSize> d{};
  std::vector<std::array<uint32_t, 4>> a_registers;
  Site site;
};
struct Accumulator {
  std::array<float*, kGroupSize> d{};
  int per_thread = 0, pending = 0;
  std::vector<float> values;  // [thread][per_thread]
};
enum class Step { fence, multiply, commit, wait };
struct Warpgroup {
  int arrived = 0, groups_to_leave = 0;
  Step step = Step::fence;
  Site site;
  bool fenced = false;
  Wgmma next;
  std::vector<Wgmma> open;
  std::deque<std::vector<Wgmma>> committed;
  std::vector<Accumulator> accumulators;
};

// How make_tensor_map fills a TensorMap on the host.
struct HostMap {
  const bf16* base;
  int64_t rows, columns, row_stride;
  int box_rows;
};
static_assert(sizeof(HostMap) <= sizeof(TensorMap));

uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

}  // namespace

struct HopperState {
  std::map<const void*, BarrierState> barriers;
  std::array<Warpgroup, kMaxThreads / kGroupSize> groups;
};
void HopperStateDelete::operator()(HopperState* p) const { delete p; }

namespace {

HopperState& state() {
  Worker& w = *worker;
  if (!w.hopper) w.hopper.reset(new HopperState);
  return *w.hopper;
}

BarrierState& barrier_at(const void* p, const char* what, Site at) {
  auto& barriers = state().barriers;
  const auto it = barriers.find(p);
  if (it == barriers.end()) fail("%s at %s:%d: no mbarrier was initialised there", what, at.file, at.line);
  return it->second;
}

void end_phase_if_complete(BarrierState& b) {
  if (b.pending > 0 || b.bytes != 0) return;
  b.phase ^= 1;
  b.pending = b.arrivals;
  for (Lane* lane : b.waiting) make_ready(*worker, *lane->warp, 1u << lane->lane);
  b.waiting.clear();
}

}  // namespace

void reset_hopper(Worker& w) { w.hopper.reset(); }
void new_hopper_block(Worker& w) {
  if (w.hopper) w.hopper->barriers.clear();
}
void check_hopper_finished(Worker& w) {
  if (!w.bulk_copies.empty()) fail("the block ends with %zu bulk copies in flight", w.bulk_copies.size());
  if (!w.hopper) return;
  for (const Warpgroup& g : w.hopper->groups) {
    if (!g.open.empty() || !g.committed.empty()) fail("the block ends with wgmma operations that nobody has waited for");
  }
}

void mbarrier_init(void* barrier, int arrivals, Site at) {
  shared_range(barrier, 8, 8, "mbarrier_init", at);
  if (arrivals < 1) fail("mbarrier_init at %s:%d: expected at least one arrival, got %d", at.file, at.line, arrivals);
  BarrierState b;
  b.arrivals = b.pending = arrivals;
  state().barriers[barrier] = std::move(b);
}

void mbarrier_arrive(void* barrier, int expected_bytes, Site at) {
  BarrierState& b = barrier_at(barrier, "mbarrier_arrive", at);
  if (b.pending == 0) {
    fail("mbarrier_arrive at %s:%d: more arrivals than the %d of a phase, whose bytes are not there yet", at.file, at.line, b.arrivals);
  }
  if (checker) checker->release(*self(), b.clocks);
  b.bytes += expected_bytes;
  --b.pending;
  end_phase_if_complete(b);
}

void mbarrier_wait(void* barrier, int parity, Site at) {
  for (;;) {
    BarrierState& b = barrier_at(barrier, "mbarrier_wait", at);
    if ((b.phase & 1) != static_cast<uint32_t>(parity & 1)) {
      if (checker) checker->acquire(*self(), b.clocks);
      return;
    }
    b.waiting.push_back(self());
    park("mbarrier_wait", at);
  }
}

// ---- bulk copies

namespace {

void start_bulk_copy(std::function<void()> land) {
  if (worker->options.async == Async::eager) {
    land();
  } else {
    worker->bulk_copies.push_back(std::move(land));
  }
}

void bytes_have_come(const void* barrier, int bytes, Lane& lane) {
  BarrierState& b = state().barriers[barrier];
  b.bytes -= bytes;
  if (checker) checker->release(lane, b.clocks);
  end_phase_if_complete(b);
}

}  // namespace

void tma_load(void* to, const void* map, int column, int row, void* barrier, Site at) {
  HostMap m;
  std::memcpy(&m, map, sizeof m);
  const int bytes = m.box_rows * 128;
  barrier_at(barrier, "tma_load", at);
  char* target = shared_range(to, static_cast<size_t>(bytes), 1024, "tma_load", at);
  note_access(target, static_cast<size_t>(bytes), kWrite | kInFlight | kUncounted, at);
  std::memset(target, kNaN, static_cast<size_t>(bytes));
  Lane* lane = self();
  start_bulk_copy([=] {
    const uint32_t offset = shared_offset(target);
    for (int r = 0; r < m.box_rows; ++r) {
      for (int c = 0; c < kBoxColumns; c += 8) {
        uint16_t piece[8] = {};
        const int64_t from_row = row + r;
        for (int i = 0; i < 8; ++i) {
          const int64_t from_column = column + c + i;
          if (from_row < 0 || from_row >= m.rows || from_column < 0 || from_column >= m.columns) continue;
          const bf16* from = m.base + from_row * m.row_stride + from_column;
          if (checker) checker->access(*lane, from, 2, kRead | kUncounted, {nullptr, at});
          std::memcpy(&piece[i], from, 2);
        }
        char* at_piece = worker->shared + swizzled(offset + static_cast<uint32_t>(r * 128 + c * 2));
        if (checker) checker->access(*lane, at_piece, 16, kWrite | kUncounted, {nullptr, at});
        std::memcpy(at_piece, piece, 16);
      }
    }
    if (checker) {
      const auto inside = [](int64_t first, int64_t box, int64_t extent) {
        return std::max<int64_t>(0, std::min(first + box, extent) - std::max<int64_t>(first, 0));
      };
      const int64_t rows = inside(row, m.box_rows, m.rows), row_bytes = inside(column, kBoxColumns, m.columns) * 2;
      checker->traffic().read_bytes += static_cast<uint64_t>(rows * row_bytes);
      checker->traffic().read_sectors += static_cast<uint64_t>(rows * ((row_bytes + 31) / 32));
    }
    bytes_have_come(barrier, bytes, *lane);
  });
}

void bulk_load(void* to, const void* from, int bytes, void* barrier, Site at) {
  barrier_at(barrier, "bulk_load", at);
  char* target = shared_range(to, static_cast<size_t>(bytes), 16, "bulk_load", at);
  if (bytes < 16 || bytes % 16 || reinterpret_cast<uintptr_t>(from) % 16) {
    fail("bulk_load at %s:%d: expected a multiple of 16 bytes from an address that is one, too, got %d bytes from %p", at.file,
         at.line, bytes, from);
  }
  for (int i = 0; i < bytes; i += 16) note_access(target + i, 16, kWrite | kInFlight | kUncounted, at);
  std::memset(target, kNaN, static_cast<size_t>(bytes));
  Lane* lane = self();
  start_bulk_copy([=] {
    for (int i = 0; i < bytes && checker; i += 16) {
      checker->access(*lane, static_cast<const char*>(from) + i, 16, kRead | kUncounted, {nullptr, at});
      checker->access(*lane, target + i, 16, kWrite | kUncounted, {nullptr, at});
    }
    if (checker) {
      checker->traffic().read_bytes += static_cast<uint64_t>(bytes);
      checker->traffic().read_sectors += static_cast<uint64_t>((bytes + 31) / 32);
    }
    std::memcpy(target, from, static_cast<size_t>(bytes));
    bytes_have_come(barrier, bytes, *lane);
  });
}

uint32_t shared_offset(const void* p) {
  return static_cast<uint32_t>(static_cast<const char*>(p) - worker->shared);
}

// ---- wgmma

namespace {

// What is read for a warp counts as read by its lane 0, which is at least as far as the wait.
float element(uint32_t offset, Lane& reader, Site at, const char* what) {
  const char* p = shared_range(worker->shared + offset, 2, 2, what, at);
  if (checker) checker->access(reader, p, 2, kRead | kUncounted, {nullptr, at});
  bf16 value;
  std::memcpy(&value, p, 2);
  return to_float(value);
}

uint32_t start_of(uint64_t descriptor) { return static_cast<uint32_t>(descriptor & 0x3fff) << 4; }
uint32_t columns_stride_of(uint64_t descriptor) { return static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4; }
uint32_t stride_of(uint64_t descriptor) { return static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4; }

// Each sum in order of k. Products of bf16 numbers are exact in fp32.
ELECTRA_CLONES void multiply(float (&c)[64][256], const float (&a)[64][16], const float (&b)[16][256], int columns) {
  for (int r = 0; r < 64; ++r) {
    for (int n = 0; n < columns; n += 16) {
      float sum[16] = {};
      for (int k = 0; k < 16; ++k)
        for (int i = 0; i < 16; ++i) sum[i] += a[r][k] * b[k][n + i];
      std::memcpy(c[r] + n, sum, sizeof sum);
    }
  }
}

// Every warp reads its own rows of A, and all of B, whose columns are shared out here: each is the reader of some.
void perform(Warpgroup& g, const Wgmma& op) {
  const auto number = static_cast<size_t>(&g - state().groups.data());
  const auto reader = [&](uint32_t warp) -> Lane& { return worker->warps[number * 4 + warp].lanes[0]; };
  float a[64][16];
  static thread_local float b[16][256];
  for (uint32_t r = 0; r < 64; ++r) {
    for (uint32_t k = 0; k < 16; ++k) {
      if (op.a_in_registers) {
        const uint32_t thread = r / 16 * 32 + r % 8 * 4 + k % 8 / 2, word = k / 8 * 2 + r % 16 / 8;
        a[r][k] = to_float(bf16{static_cast<uint16_t>(op.a_registers[thread][word] >> (k % 2 * 16))});
      } else {
        a[r][k] = element(swizzled(start_of(op.a) + r / 8 * stride_of(op.a) + r % 8 * 128 + k * 2), reader(r / 16), op.site, "wgmma, operand a");
      }
    }
  }
  for (uint32_t k = 0; k < 16; ++k) {
    for (uint32_t n = 0; n < static_cast<uint32_t>(op.columns); ++n) {
      const uint32_t offset = op.transposed_b ? n / 64 * columns_stride_of(op.b) + k / 8 * stride_of(op.b) + k % 8 * 128 + n % 64 * 2
                                              : n / 8 * stride_of(op.b) + n % 8 * 128 + k * 2;
      b[k][n] = element(swizzled(start_of(op.b) + offset), reader(n / 8 % 4), op.site, "wgmma, operand b");
    }
  }
  const auto it = std::find_if(g.accumulators.begin(), g.accumulators.end(), [&](const Accumulator& x) { return x.d[0] == op.d[0]; });
  Accumulator& acc = *it;
  static thread_local float product[64][256];
  multiply(product, a, b, op.columns);
  for (int r = 0; r < 64; ++r) {
    for (int n = 0; n < op.columns; ++n) {
      const int thread = r / 16 * 32 + r % 8 * 4 + n % 8 / 2, i = n / 8 * 4 + r % 16 / 8 * 2 + n % 2;
      float& d = acc.values[static_cast<size_t>(thread * acc.per_thread + i)];
      d = op.accumulate ? d + product[r][n] : product[r][n];
    }
  }
  if (--acc.pending > 0) return;
  for (int t = 0; t < kGroupSize; ++t) {
    std::memcpy(acc.d[static_cast<size_t>(t)], &acc.values[static_cast<size_t>(t * acc.per_thread)],
                static_cast<size_t>(acc.per_thread) * sizeof(float));
  }
  g.accumulators.erase(it);
}

void perform_all_but(Warpgroup& g, size_t groups) {
  while (g.committed.size() > groups) {
    const std::vector<Wgmma> ops = std::move(g.committed.front());
    g.committed.pop_front();
    for (const Wgmma& op : ops) perform(g, op);
  }
}

// The last of the 128 threads to arrive takes the step for all.
void take_step(Worker& w, Warpgroup& g) {
  switch (g.step) {
    case Step::fence: g.fenced = true; return;
    case Step::multiply: {
      if (!g.fenced) fail("wgmma at %s:%d: no wgmma_fence before it", g.site.file, g.site.line);
      const bool known = std::any_of(g.accumulators.begin(), g.accumulators.end(),
                                     [&](const Accumulator& x) { return x.d[0] == g.next.d[0]; });
      const int per_thread = g.next.columns / 2;
      const auto bytes = static_cast<size_t>(per_thread) * sizeof(float);
      if (!known) {
        Accumulator acc{g.next.d, per_thread, 0, std::vector<float>(static_cast<size_t>(per_thread) * kGroupSize)};
        for (int t = 0; t < kGroupSize; ++t) {
          std::memcpy(&acc.values[static_cast<size_t>(t * per_thread)], acc.d[static_cast<size_t>(t)], bytes);
          std::memset(acc.d[static_cast<size_t>(t)], kNaN, bytes);
        }
        g.accumulators.push_back(std::move(acc));
      }
      for (Accumulator& acc : g.accumulators) acc.pending += acc.d[0] == g.next.d[0];
      g.open.push_back(std::move(g.next));
      w.counters.mma += static_cast<uint64_t>(per_thread);  // as many 16x8x16 products
      return;
    }
    case Step::commit:
      g.committed.push_back(std::move(g.open));
      g.open.clear();
      g.fenced = false;
      if (w.options.async == Async::eager) perform_all_but(g, 0);
      return;
    case Step::wait: perform_all_but(g, static_cast<size_t>(g.groups_to_leave)); return;
  }
}

template <class Put>
void meet_warpgroup(Step step, const char* what, int groups_to_leave, Site at, Put put) {
  Lane* me = self();
  Worker& w = *worker;
  const int number = me->rank / kGroupSize;
  Warpgroup& g = state().groups[static_cast<size_t>(number)];
  if (w.threads < (number + 1) * kGroupSize) fail("%s at %s:%d: its warpgroup has fewer than 128 threads", what, at.file, at.line);
  if (g.arrived == 0) {
    g.step = step;
    g.site = at;
    g.groups_to_leave = groups_to_leave;
    g.next = {};
  } else if (g.step != step || g.site.line != at.line) {
    fail("divergent warpgroup: %s at %s:%d while others are at %s:%d", what, at.file, at.line, g.site.file, g.site.line);
  }
  put(g, static_cast<size_t>(me->rank % kGroupSize));
  ++me->epoch;
  if (++g.arrived < kGroupSize) return park(what, at);
  g.arrived = 0;
  take_step(w, g);
  const bool keep = w.plain;
  for (int i = number * 4; i < number * 4 + 4; ++i) {
    Warp& warp = w.warps[i];
    make_ready(w, warp, keep && &warp == me->warp ? ~(1u << me->lane) : ~0u);
  }
  if (!keep) run_next(w, me);
}

}  // namespace

void wgmma_fence(Site at) {
  meet_warpgroup(Step::fence, "wgmma_fence", 0, at, [](Warpgroup&, size_t) {});
}
void wgmma_commit(Site at) {
  meet_warpgroup(Step::commit, "wgmma_commit", 0, at, [](Warpgroup&, size_t) {});
}
void wgmma_wait(int groups, Site at) {
  meet_warpgroup(Step::wait, "wgmma_wait", groups, at, [](Warpgroup&, size_t) {});
}
void wgmma(float* d, int columns, const uint32_t* a_registers, uint64_t a, uint64_t b, bool transposed_b, bool accumulate, Site at) {
  meet_warpgroup(Step::multiply, "wgmma", 0, at, [&](Warpgroup& g, size_t thread) {
    Wgmma& op = g.next;
    if (g.arrived == 0) {
      op.columns = columns;
      op.a_in_registers = a_registers != nullptr;
      op.transposed_b = transposed_b;
      op.accumulate = accumulate;
      op.a = a;
      op.b = b;
      op.site = at;
      if (a_registers) op.a_registers.resize(kGroupSize);
    } else if (op.a != a || op.b != b || op.accumulate != accumulate) {
      fail("wgmma at %s:%d: the threads of the warpgroup pass different descriptors", at.file, at.line);
    }
    op.d[thread] = d;
    if (a_registers) std::memcpy(op.a_registers[thread].data(), a_registers, 16);
  });
}

}  // namespace electra::simt

namespace electra {

TensorMap make_tensor_map(const bf16* base, int64_t rows, int64_t columns, int64_t row_stride, int box_rows) {
  if (reinterpret_cast<uintptr_t>(base) % 16 || row_stride % 8 || rows < 1 || columns < 1 || row_stride < columns || box_rows < 1 ||
      box_rows > 256) {
    throw DeviceError("tensor map", "expected a base of 16-byte alignment, a row stride that is a multiple of 8 and no less than "
                                    "the columns, and a box of 1 to 256 rows, got rows " + std::to_string(rows) + ", columns " +
                                        std::to_string(columns) + ", row stride " + std::to_string(row_stride) + ", box rows " +
                                        std::to_string(box_rows));
  }
  const simt::HostMap host{base, rows, columns, row_stride, box_rows};
  TensorMap map{};
  std::memcpy(&map, &host, sizeof host);
  return map;
}

}  // namespace electra
