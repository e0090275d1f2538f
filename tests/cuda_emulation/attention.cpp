// The attention kernels of jseg/ops/kernels on a CPU: one library for each NUMBER_TYPE and PADDED_DEPTH.
#include "attention_calls.cuh"
#include "call.h"

using namespace jseg;

// kind: joint_forward, joint_backward, cross_forward, cross_backward; inputs and outputs in the order of those functions.
void dispatch(const char* kind, const Numbers& number, const Places& in, const Places& out, const size_t*) {
    const auto joint = [&](auto mask) {
        constexpr Mask MASK = decltype(mask)::value;
        if (std::strcmp(kind, "joint_forward") == 0)
            joint_forward<NUMBER_TYPE, PADDED_DEPTH, MASK>(number, in[0], in[1], out[0], (float*)out[1]);
        else
            joint_backward<NUMBER_TYPE, PADDED_DEPTH, MASK>(number, in[0], in[1], in[2], (float*)in[3], in[4], out[0], out[1], (float*)out[2]);
    };
    const auto cross = [&](auto dropout) {
        constexpr bool DROPOUT = decltype(dropout)::value;
        if (std::strcmp(kind, "cross_forward") == 0)
            cross_forward<NUMBER_TYPE, PADDED_DEPTH, DROPOUT>(number, in[0], in[1], in[2], (float*)in[3], out[0], (float*)out[1]);
        else
            cross_backward<NUMBER_TYPE, PADDED_DEPTH, DROPOUT>(number, in[0], in[1], in[2], (float*)in[3], in[4], (float*)in[5], in[6],
                                                 out[0], out[1], out[2], (float*)out[3]);
    };
    if (kind[0] == 'c') {
        if (number("dropout") > 0) cross(std::true_type());
        else cross(std::false_type());
    } else {
        const int mask = number("mask");
        if (mask == FULL) joint(std::integral_constant<Mask, FULL>());
        if (mask == CAUSAL) joint(std::integral_constant<Mask, CAUSAL>());
        if (mask == REGIONS) joint(std::integral_constant<Mask, REGIONS>());
    }
}
