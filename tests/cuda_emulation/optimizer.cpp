// The kernels of optimizer.cuh on a CPU.
#include "optimizer.cuh"

#include "call.h"

using namespace jseg;

// The kept outputs are the tensors.
void dispatch(const char* kind, const Numbers& number, const Places& in, const Places& out, const size_t* out_bytes) {
    if (std::strcmp(kind, "step_factor") == 0) return step_factor(number, (float*)in[0], (double*)in[1], (float*)out[0]);
    const bool sums = std::strcmp(kind, "square_sums") == 0;
    Tensors tensors;
    for (size_t i = sums ? 2 : 1; i < out.size(); i++) {
        const Kind kind = (Kind)(int)number(("kind" + std::to_string(tensors.size())).c_str());
        tensors.push_back({out[i], (int64_t)out_bytes[i] / (kind == FLOAT32 ? 4 : 2), kind});
    }
    if (sums)
        square_sums(number, tensors, (float*)out[0], (float*)out[1]);
    else
        adamw(number, tensors, (int32_t*)in[0], (float*)in[1], (float*)in[2], (int32_t*)out[0]);
}
