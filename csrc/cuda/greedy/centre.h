// Mean-centred keys (Cen-Prune), for selections that compare them.
#pragma once

#include "cuda/greedy/greedy.h"

namespace zoprune::cuda {

// Enqueues on `stream`: centred [total_tokens, dim] = (keys - mean) / 2 in fp32, with the mean over
// the image's valid tokens whose keys are finite. Halved, a difference cannot overflow, and cosines
// are the same. `counted` [total_tokens] is workspace. Returns what went wrong, or an empty string.
std::string centre_keys(const SelectArguments& arguments, float* centred, bool* counted,
                        Stream stream);

}  // namespace zoprune::cuda
