#define IRN_TRAIN_ISA train_portable
#define IRN_TRAIN_FLOATS 4
#include "train.h"

namespace irn {

const Passes* portable_passes() { return &train_portable::kPasses; }

}  // namespace irn
