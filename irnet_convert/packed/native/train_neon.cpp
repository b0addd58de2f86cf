#define IRN_TRAIN_ISA train_neon
#define IRN_TRAIN_FLOATS 4
#include "train.h"

namespace irn {

const Passes* neon_passes() { return &train_neon::kPasses; }

}  // namespace irn
