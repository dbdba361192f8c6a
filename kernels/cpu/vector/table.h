// Each file of this folder fills its part of the table of its instruction set.
#pragma once
#include "kernels/cpu/vector/kernels.h"

namespace electra::cpu::ELECTRA_ISA {

void fill_elementwise(VectorKernels& table);
void fill_layer_norm(VectorKernels& table);
void fill_attention(VectorKernels& table);
void fill_masked_lm(VectorKernels& table);
void fill_binary_classifier(VectorKernels& table);
void fill_optimizer(VectorKernels& table);

VectorKernels make_table();

}  // namespace electra::cpu::ELECTRA_ISA
