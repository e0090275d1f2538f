// The kernels of losses.cuh on a CPU.
#include "losses.cuh"

#include "call.h"

using namespace jseg;

void dispatch(const char* kind, const Numbers& number, const Places& in, const Places& out, const size_t*) {
    const float* logits = (float*)in[0];
    const int32_t* labels = (int32_t*)in[1];
    float* result = (float*)out[0];
    if (std::strcmp(kind, "focal_forward") == 0) focal_forward(number, logits, labels, result);
    if (std::strcmp(kind, "focal_backward") == 0) focal_backward(number, logits, labels, (float*)in[2], result);
    if (std::strcmp(kind, "dice_forward") == 0) dice_forward(number, logits, labels, result);
    if (std::strcmp(kind, "dice_backward") == 0) dice_backward(number, logits, labels, (float*)in[2], result);
}
