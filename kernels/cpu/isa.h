// Which instruction set the vector kernels use on this machine.
#pragma once

namespace electra::cpu {

enum class Isa { baseline, avx2, avx512 };  // x86-64-v2 (or any other machine), x86-64-v3, x86-64-v4

// The best one the processor has, or what the environment variable ELECTRA_ISA=baseline|avx2|avx512 asks for, when the
// processor has it. Decided once.
Isa active_isa();
const char* name_of(Isa isa);

}  // namespace electra::cpu
