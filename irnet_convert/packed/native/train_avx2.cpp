#define IRN_TRAIN_ISA train_avx2
#define IRN_TRAIN_FLOATS 8
#include "train.h"

namespace irn {

const Passes* avx2_passes() { return &train_avx2::kPasses; }

}  // namespace irn
