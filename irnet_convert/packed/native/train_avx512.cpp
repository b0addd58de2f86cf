#define IRN_TRAIN_ISA train_avx512
#define IRN_TRAIN_FLOATS 16
#include "train.h"

namespace irn {

const Passes* avx512_passes() { return &train_avx512::kPasses; }

}  // namespace irn
