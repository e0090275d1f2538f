// Matrix products of one warp: how each number type is loaded, multiplied and stored.
//
// A warp multiplies a (16 x STEP) by b (STEP x 16). Of sums (16 x 8), lane 4 g + t holds (row g, columns 2t and 2t + 1)
// and (row g + 8, the same columns); `sums_to_left` makes them the left factor of a next product without an exchange.
#pragma once

#include "formulae.h"
#include "primitives.cuh"

namespace jseg {

__device__ __forceinline__ int lane_index() { return thread_index() % WARP; }
__device__ __forceinline__ int warp_index() { return thread_index() / WARP; }

// Rows of shared memory are 8 numbers longer than their contents, so that eight of them lie in different banks.
template <int DEPTH>
constexpr int stride_of = DEPTH + 8;

// Halves, 16 at a time: ldmatrix gives exactly what mma.m16n8k16 wants.
struct Halves {
    typedef uint16_t Number;
    static constexpr int STEP = 16;
    static constexpr bool KEEP_LEFT = true;  // left factors that are used again stay in registers
    static constexpr bool SUMS_APART = false;  // long sums are added up by the tensor cores
    struct Left {
        uint32_t bits[4];
    };
    struct Right {
        uint32_t bits[4];  // columns 0-7, then columns 8-15
    };

    // From rows (16) of numbers along the inner dimension.
    static __device__ __forceinline__ void load(Left& to, const Number* from, int stride) {
        const int lane = lane_index();
        load_matrices(to.bits, from + lane % 16 * stride + lane / 16 * 8);
    }
    // From rows (16, the columns of the factor) of numbers along the inner dimension.
    static __device__ __forceinline__ void load(Right& to, const Number* from, int stride) {
        const int lane = lane_index();
        load_matrices(to.bits, from + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
    }
    // From rows (STEP, the inner dimension) of 16 columns.
    static __device__ __forceinline__ void load_transposed(Right& to, const Number* from, int stride) {
        const int lane = lane_index();
        load_matrices_transposed(to.bits, from + lane % 16 * stride + lane / 16 * 8);
    }
};

struct BFloat16 : Halves {
    static __device__ __forceinline__ void multiply_add(float (&left)[4], float (&right)[4], const Left& a, const Right& b) {
        multiply_add_bfloat16(left, a.bits, b.bits[0], b.bits[1]);
        multiply_add_bfloat16(right, a.bits, b.bits[2], b.bits[3]);
    }
    static __device__ __forceinline__ uint32_t two(float first, float second) { return two_bfloat16(first, second); }
    static __device__ __forceinline__ void store_two(Number* to, float first, float second) {
        *reinterpret_cast<uint32_t*>(to) = two(first, second);
    }
    static __device__ __forceinline__ float value(Number x) { return float_of((uint32_t)x << 16); }
};

struct Float16 : Halves {
    static __device__ __forceinline__ void multiply_add(float (&left)[4], float (&right)[4], const Left& a, const Right& b) {
        multiply_add_float16(left, a.bits, b.bits[0], b.bits[1]);
        multiply_add_float16(right, a.bits, b.bits[2], b.bits[3]);
    }
    static __device__ __forceinline__ uint32_t two(float first, float second) { return two_float16(first, second); }
    static __device__ __forceinline__ void store_two(Number* to, float first, float second) {
        *reinterpret_cast<uint32_t*>(to) = two(first, second);
    }
    static __device__ __forceinline__ float value(Number x) { return float_of_float16(x); }
};

// Sums of 8 columns and of the next 8 as left factor number `step` of the 16 / STEP that they make.
template <class T>
__device__ __forceinline__ void sums_to_left(typename T::Left& to, const float (&first)[4], const float (&second)[4],
                                             int step) {
    if constexpr (T::STEP == 16) {
        to.bits[0] = T::two(first[0], first[1]);
        to.bits[1] = T::two(first[2], first[3]);
        to.bits[2] = T::two(second[0], second[1]);
        to.bits[3] = T::two(second[2], second[3]);
    } else {
        T::split(to, step == 0 ? first : second);
    }
}

// float32 through TensorFloat-32, 8 at a time. Which inner index a lane holds is free as long as both factors agree:
// lane 4 g + t has 2t and 2t + 1 (the manual's t and t + 4), so that sums are left factors as they stand.
template <bool EXACT>
struct Singles {
    typedef float Number;
    static constexpr int STEP = 8;
    static constexpr bool KEEP_LEFT = false, SUMS_APART = EXACT;
    // A number is the sum of two TensorFloat-32 numbers up to 2^-22 of itself; a product of two leaves out low * low.
    struct Left {
        uint32_t high[4], low[EXACT ? 4 : 1];
    };
    struct Right {
        uint32_t high[4], low[EXACT ? 4 : 1];
    };

    template <class Factor>
    static __device__ __forceinline__ void set(Factor& to, int i, float x) {
        to.high[i] = tf32_of(x);
        if constexpr (EXACT) to.low[i] = tf32_of(x - float_of(to.high[i]));
    }
    static __device__ __forceinline__ void split(Left& to, const float (&sums)[4]) {
        set(to, 0, sums[0]);
        set(to, 1, sums[2]);
        set(to, 2, sums[1]);
        set(to, 3, sums[3]);
    }
    static __device__ __forceinline__ void load(Left& to, const Number* from, int stride) {
        const Number* row = from + lane_index() / 4 * stride + lane_index() % 4 * 2;
        const float sums[4] = {row[0], row[1], row[8 * stride], row[8 * stride + 1]};
        split(to, sums);
    }
    static __device__ __forceinline__ void load(Right& to, const Number* from, int stride) {
        const Number* row = from + lane_index() / 4 * stride + lane_index() % 4 * 2;
        for (int i = 0; i < 4; i++) set(to, i, row[i / 2 * 8 * stride + i % 2]);
    }
    static __device__ __forceinline__ void load_transposed(Right& to, const Number* from, int stride) {
        const Number* column = from + lane_index() % 4 * 2 * stride + lane_index() / 4;
        for (int i = 0; i < 4; i++) set(to, i, column[i % 2 * stride + i / 2 * 8]);
    }
    static __device__ __forceinline__ void multiply_add(float (&left)[4], float (&right)[4], const Left& a, const Right& b) {
        if constexpr (EXACT) {
            multiply_add_tf32(left, a.low, b.high[0], b.high[1]);
            multiply_add_tf32(right, a.low, b.high[2], b.high[3]);
            multiply_add_tf32(left, a.high, b.low[0], b.low[1]);
            multiply_add_tf32(right, a.high, b.low[2], b.low[3]);
        }
        multiply_add_tf32(left, a.high, b.high[0], b.high[1]);
        multiply_add_tf32(right, a.high, b.high[2], b.high[3]);
    }
    static __device__ __forceinline__ void store_two(Number* to, float first, float second) {
        to[0] = first;
        to[1] = second;
    }
    static __device__ __forceinline__ float value(Number x) { return x; }
};
typedef Singles<true> Float32;        // to about 1e-6
typedef Singles<false> TensorFloat32;  // to about 1e-3
}  // namespace jseg
