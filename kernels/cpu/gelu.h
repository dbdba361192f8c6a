// GELU by the definition, for the oracles.
#pragma once

namespace electra::cpu {

double gelu(double x);        // x Φ(x)
double gelu_slope(double x);  // Φ(x) + x φ(x)

}  // namespace electra::cpu
