// A training step allocates nothing of its own: malloc and operator new are counted while it runs, calls made inside oneDNN left out.
#include <catch2/catch.hpp>
#include <dlfcn.h>
#include <execinfo.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "model/initialize.h"
#include "trainer/synthetic.h"
#include "trainer/training_step.h"

namespace {

std::atomic<bool> counting{false};
std::atomic<int> ours{0}, in_library{0};
thread_local bool looking = false;  // the look itself may allocate

// Whether a frame of oneDNN is on the stack.
bool inside_onednn() {
  void* frames[32];
  const int n = backtrace(frames, 32);
  for (int i = 0; i < n; ++i) {
    Dl_info info;
    if (dladdr(frames[i], &info) && info.dli_fname && std::strstr(info.dli_fname, "libdnnl")) return true;
  }
  return false;
}

void note() {
  if (!counting.load(std::memory_order_relaxed) || looking) return;
  looking = true;
  (inside_onednn() ? in_library : ours).fetch_add(1);
  looking = false;
}

}  // namespace

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void* malloc(size_t n) {
  note();
  return __libc_malloc(n);
}
void* calloc(size_t n, size_t size) {
  note();
  return __libc_calloc(n, size);
}
void* realloc(void* p, size_t n) {
  note();
  return __libc_realloc(p, n);
}
void* aligned_alloc(size_t alignment, size_t n) {
  note();
  return __libc_memalign(alignment, n);
}
int posix_memalign(void** p, size_t alignment, size_t n) {
  note();
  *p = __libc_memalign(alignment, n);
  return *p ? 0 : 12;
}
}

using namespace electra;

namespace {

constexpr BatchShape kShape{.sequences = 6, .tokens = 192, .max_seq_len = 32};

ElectraConfig small_config() {
  ElectraConfig c;
  c.vocab_size = 700;
  c.embedding_size = 32;
  c.max_position_embeddings = 32;
  c.discriminator = {.hidden_size = 64, .num_layers = 2, .num_heads = 1, .intermediate_size = 128};
  c.generator = {.hidden_size = 32, .num_layers = 1, .num_heads = 1, .intermediate_size = 64};
  c.hidden_dropout = c.attention_dropout = 0.1;
  return c;
}

ElectraGraphOptions small_options(int threads) {
  ElectraGraphOptions options;
  options.masking.special = kSyntheticSpecialIds;
  options.masking.max_predictions = 5;
  options.max_threads = threads;
  return options;
}

// Allocations of our own while f runs for the second time.
template <class F> int allocations(F f) {
  void* warm[4];
  backtrace(warm, 4);  // loads what it needs
  f(0);
  ours = in_library = 0;
  counting = true;
  f(1);
  counting = false;
  return ours;
}

}  // namespace

TEST_CASE("a training step allocates nothing of its own") {
  struct Case {
    const char* name;
    size_t micro_batches = 1;
    Recompute recompute = Recompute::none;
    bool uniform = false, with_replacement = false;
  };
  for (const Case& which : {Case{"plain"}, Case{"two micro-batches", 2}, Case{"GELU again", 1, Recompute::gelu},
                            Case{"layers again, three micro-batches", 3, Recompute::layers},
                            Case{"uniform generator", 1, Recompute::none, true}, Case{"with replacement", 2, Recompute::none, false, true}})
    for (const int threads : {1, 2}) {
      ThreadPool pool(threads, Assignment::striped);
      ElectraConfig config = small_config();
      config.uniform_generator = which.uniform;
      ElectraGraphOptions options = small_options(threads);
      options.recompute = which.recompute;
      options.masking.with_replacement = which.with_replacement;
      TrainingStep step(config, kShape, options, {}, Stream(pool));
      initialize(*step.store(), 1);
      std::vector<SyntheticBatch> sources;
      for (size_t i = 0; i < which.micro_batches; ++i) sources.emplace_back(kShape, config.vocab_size, i + 1);
      std::vector<HostBatch> batches(which.micro_batches);
      MetricSums sums;
      StepResult result;
      const int count = allocations([&](uint32_t n) {
        for (size_t i = 0; i < batches.size(); ++i) batches[i] = sources[i].fill(n);
        result = step.run(batches, {.seed = 1, .step = n, .learning_rate = 1e-3, .adam_step = n + 1}, sums);
      });
      INFO(which.name << ", " << threads << " thread(s), " << in_library << " calls inside oneDNN");
      CHECK(result.finite);
      CHECK(result.tokens == static_cast<int64_t>(192 * which.micro_batches));
      CHECK(count == 0);
    }
}

TEST_CASE("an evaluation step allocates nothing of its own") {
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads, Assignment::striped);
    const ElectraConfig config = small_config();
    ElectraGraphOptions options = small_options(threads);
    options.train = false;
    ElectraProgram program(trace_electra(config, kShape, options), /*train=*/false, Stream(pool));
    initialize(*program.store(), 1);
    SyntheticBatch source(kShape, config.vocab_size, 1);
    const int count = allocations([&](uint32_t n) {
      program.load(source.fill(n));
      program.forward({.seed = 1, .step = n});
    });
    INFO(threads << " thread(s), " << in_library << " calls inside oneDNN");
    CHECK(*program.output(program.traced().loss).as<float>() > 0);
    CHECK(count == 0);
  }
}

TEST_CASE("the count sees an allocation") {
  ours = 0;
  counting = true;
  int* volatile p = new int(3);
  counting = false;
  delete p;
  CHECK(ours == 1);
}
