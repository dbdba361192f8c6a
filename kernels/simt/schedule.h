// The way from one thread of a block to the next: everything that happens at every switch, inlined where threads wait.
#pragma once
#include "kernels/simt/internal.h"

// Saves the callee-saved registers on the running stack and its pointer in *save, and takes up where `to` was saved. It ends
// with `ret`, not with a jump: fibers wait at the same few places, so the return predictor stays in step (3 to 6 ns a switch).
extern "C" void electra_simt_switch(void** save, void* to);

namespace electra::simt {

inline void switch_to(void** save, void* to, [[maybe_unused]] const void* low, [[maybe_unused]] size_t size,
                      [[maybe_unused]] bool for_ever) {
#if defined(ELECTRA_SIMT_ASAN)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(for_ever ? nullptr : &fake_stack, low, size);
  electra_simt_switch(save, to);
  const void* old_low;
  size_t old_size;
  __sanitizer_finish_switch_fiber(fake_stack, &old_low, &old_size);
#else
  electra_simt_switch(save, to);
#endif
}
inline void switch_to_lane(void** save, Lane* to, bool for_ever) {
  switch_to(save, to->sp, to->stack->low, static_cast<size_t>(to->stack->top - to->stack->low), for_ever);
}

// Under all schedules but the plain one.
Lane* pop_otherwise(Worker& w);
bool starts_first(Worker& w);  // whether a thread that has not begun comes before those that are ready
[[noreturn]] void spinning(Worker& w);
// Nothing is ready: starts a thread, lets an asynchronous copy land, ends the block, or reports a deadlock.
void run_next_cold(Worker& w, void** save, Lane* me);

// In the plain schedule the last warp to become ready goes on with its lowest lane.
inline __attribute__((always_inline)) Lane* pop_plain(Worker& w) {
  Warp& warp = w.warps[w.ready_warps[w.ready_count - 1]];
  const int lane = __builtin_ctz(warp.ready);
  warp.ready &= warp.ready - 1;
  if (!warp.ready) --w.ready_count;
  return warp.lanes + lane;
}

inline __attribute__((always_inline)) Lane* pop_ready(Worker& w) {
  return __builtin_expect(w.plain, 1) ? pop_plain(w) : pop_otherwise(w);
}

// `me` waits, or has ended when null; returns when it is its turn again.
inline __attribute__((always_inline)) void run_next(Worker& w, Lane* me) {
  void* nobody;
  void** save = me ? &me->sp : &nobody;
  if (__builtin_expect(++w.steps > w.options.max_steps, 0)) spinning(w);
  if (__builtin_expect(w.ready_count > 0 && (w.unstarted >= w.threads || !starts_first(w)), 1)) {
    Lane* next = pop_ready(w);
    current = next;
    if (next != me) switch_to_lane(save, next, me == nullptr);
  } else {
    run_next_cold(w, save, me);
  }
}

// Threads of a warp that may go on.
inline void make_ready(Worker& w, Warp& warp, uint32_t lanes) {
  if (!lanes) return;
  if (!warp.ready) w.ready_warps[w.ready_count++] = static_cast<uint16_t>(warp.index);
  warp.ready |= lanes;
}

// Waits until somebody calls make_ready for this lane.
inline __attribute__((always_inline)) void park(const char* what, Site at) {
  Lane* me = self();
  me->state = LaneState::waiting;
  me->waits_for = what;
  me->site = at;
  run_next(*me->warp->worker, me);
  me->state = LaneState::running;
}

}  // namespace electra::simt
