// The kernels of losses.cuh on a CPU.
#include "losses.cuh"

#include "call.h"

using namespace jseg;

void dispatch(const char* kind, const Numbers& number, const Places& in, const Places& out, const size_t*) {
    const auto f = [](unsigned char* place) { return (float*)place; };
    const int32_t* labels = (int32_t*)in[1];
    if (std::strcmp(kind, "recovery") == 0)
        recovery(number, f(in[0]), f(in[1]), f(in[2]), f(in[3]), f(out[0]), f(out[1]), f(out[2]));
    else if (std::strcmp(kind, "recovery_gradient") == 0)
        recovery_gradient(number, f(in[0]), f(in[1]), f(in[2]), f(in[3]), f(in[4]), f(in[5]), f(out[0]), f(out[1]));
    else if (std::strcmp(kind, "mask_sums") == 0)
        mask_sums(number, f(in[0]), labels, f(in[2]), f(in[3]), f(out[0]), f(out[1]), f(out[2]), f(out[3]), f(out[4]));
    else
        mask_gradient(number, f(in[0]), labels, f(in[2]), f(in[3]), f(in[4]), f(in[5]), f(in[6]), f(out[0]));
}
