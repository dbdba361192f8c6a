#include "kernels/cpu/vector/table.h"

namespace electra::cpu::ELECTRA_ISA {

VectorKernels make_table() {
  VectorKernels table{};
  fill_elementwise(table);
  fill_layer_norm(table);
  fill_attention(table);
  fill_masked_lm(table);
  fill_binary_classifier(table);
  fill_optimizer(table);
  return table;
}

}  // namespace electra::cpu::ELECTRA_ISA
