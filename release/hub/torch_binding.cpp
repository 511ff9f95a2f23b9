// Makes the library a Python module. The operators are defined in Python, and csrc/bindings
// registers their kernels.
#include "registration.h"

REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
