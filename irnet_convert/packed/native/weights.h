// The weights of convolutions and linear layers: from a program's constants to a kernel's order.
#pragma once
#include "prepare.h"

namespace irn {

// Chooses the method of a product's step, and fills in what Prepared has for it.
void prepare_product(Prepared& p, const Program& program, const Step& s, const uint8_t* blob, const Kernels& kernels);

}  // namespace irn
