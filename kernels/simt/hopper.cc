// What Hopper adds: mbarriers, bulk copies, wgmma.
#include "kernels/simt/internal.h"

namespace electra::simt {
struct HopperState {};
void HopperStateDelete::operator()(HopperState* p) const { delete p; }
void check_hopper_finished(Worker&) {}
void reset_hopper(Worker&) {}
void new_hopper_block(Worker&) {}
}  // namespace electra::simt
