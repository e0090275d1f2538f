// The kernels of layers.cuh on a CPU: one library for each pair of number types.
#include "layers.cuh"

#include "call.h"

using namespace jseg;

void dispatch(const char* kind, const Numbers& number, const Places& in, const Places& out, const size_t*) {
    const auto f = [](unsigned char* place) { return (float*)place; };
    const auto given = [&](size_t i) { return i < out.size() ? out[i] : nullptr; };
    if (std::strcmp(kind, "norm_forward") == 0)
        norm_forward<TYPE_X, TYPE_Y>(number, in[0], f(in[1]), f(in[2]), out[0], f(out[1]), f(given(2)));
    else if (std::strcmp(kind, "norm_backward") == 0)
        norm_backward<TYPE_X, TYPE_Y>(number, in[0], f(in[1]), f(in[2]), in[3], in[4], out[0], given(1), f(given(2)), f(given(3)));
    else if (std::strcmp(kind, "linear_epilogue") == 0)
        linear_epilogue<TYPE_X, TYPE_Y>(number, in[0], in[1], in[2], in[3], out[0]);
    else
        linear_slopes<TYPE_X, TYPE_Y>(number, in[0], in[1], in[2], in[3], in[4], out[0], given(1), given(2));
}
