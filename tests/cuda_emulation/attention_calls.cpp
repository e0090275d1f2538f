// The attention kernels of jseg/ops/kernels on a CPU: one library for each number type and padded depth.
#include "attention_calls.cuh"
#include "call.h"

using namespace jseg;

// kind: forward or backward of joint, cross and two_way; inputs and outputs in the order of those functions.
void dispatch(const char* kind, const Numbers& number, const Places& in, const Places& out, const size_t*) {
    const auto joint = [&](auto mask) {
        constexpr Mask MASK = decltype(mask)::value;
        if (std::strcmp(kind, "joint_forward") == 0)
            joint_forward<TYPE_X, TYPE_Y, MASK>(number, in[0], in[1], out[0], (float*)out[1]);
        else
            joint_backward<TYPE_X, TYPE_Y, MASK>(number, in[0], in[1], in[2], (float*)in[3], in[4], out[0], out[1], (float*)out[2]);
    };
    const auto cross = [&](auto dropout) {
        constexpr bool DROPOUT = decltype(dropout)::value;
        if (std::strcmp(kind, "cross_forward") == 0)
            cross_forward<TYPE_X, TYPE_Y, DROPOUT>(number, in[0], in[1], in[2], (float*)in[3], out[0], (float*)out[1]);
        else
            cross_backward<TYPE_X, TYPE_Y, DROPOUT>(number, in[0], in[1], in[2], (float*)in[3], in[4], (float*)in[5], in[6],
                                                 out[0], out[1], out[2], (float*)out[3]);
    };
    const auto two_way = [&](auto dropout) {
        constexpr bool DROPOUT = decltype(dropout)::value;
        float *seed = (float*)in[2], *other = (float*)in[3];
        if (std::strcmp(kind, "two_way_forward") == 0)
            two_way_forward<TYPE_X, TYPE_Y, DROPOUT>(number, in[0], in[1], seed, other, out[0], out[1], (float*)out[2], (float*)out[3]);
        else
            two_way_backward<TYPE_X, TYPE_Y, DROPOUT>(number, in[0], in[1], seed, other, in[4], in[5], (float*)in[6], (float*)in[7],
                                                      in[8], in[9], out[0], out[1], (float*)out[2], (float*)out[3]);
    };
    if (kind[0] == 'c') {
        if (number("dropout") > 0) cross(std::true_type());
        else cross(std::false_type());
    } else if (kind[0] == 't') {
        if (number("dropout") > 0) two_way(std::true_type());
        else two_way(std::false_type());
    } else {
        const int mask = number("mask");
        if (mask == FULL) joint(std::integral_constant<Mask, FULL>());
        if (mask == CAUSAL) joint(std::integral_constant<Mask, CAUSAL>());
        if (mask == REGIONS) joint(std::integral_constant<Mask, REGIONS>());
    }
}
