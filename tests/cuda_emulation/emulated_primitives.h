// The functions of jseg/ops/kernels/primitives.cuh for emulation.h, with the register layouts of NVIDIA's "Parallel
// Thread Execution ISA": sections ldmatrix, mma.m16n8k16 (.f16/.bf16), mma.m16n8k8 (.tf32), cp.async, cvt.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "emulation.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace jseg {

using std::fmaxf;
using std::max;
using std::min;

constexpr int WARP = 32;

inline int thread_index() { return emulation::block()->current; }
inline int block_column() { return emulation::block()->column; }
inline int block_row() { return emulation::block()->row; }
inline void synchronise_block() { emulation::barrier(); }

struct Nothing {};
inline void synchronise_warp() {
    Nothing in, out;
    emulation::together("synchronise_warp", in, out, [](const Nothing*, Nothing*) {});
}

inline float from_lane_xor(float x, int mask) {
    float result;
    emulation::together("from_lane_xor", x, result, [=](const float* in, float* out) {
        for (int i = 0; i < WARP; i++) out[i] = in[i ^ mask];
    });
    return result;
}

inline bool is_last_block(unsigned* done, unsigned blocks) {
    emulation::barrier();
    if (thread_index() == 0) emulation::block()->last = ++*done == blocks, *done %= blocks;
    emulation::barrier();
    return emulation::block()->last;
}

inline float load_of_any_block(const float* at) { return *at; }

inline unsigned char* shared_memory() { return emulation::block()->shared.data(); }

template <int BYTES>
void copy_later(void* to, const void* from, bool valid) {
    static_assert(BYTES == 4 || BYTES == 16);
    emulation::check_shared(to, BYTES, BYTES);
    if (valid && reinterpret_cast<uintptr_t>(from) % BYTES) emulation::fail("a copy from an address that is not aligned");
    emulation::Copy copy{to, {}, BYTES, emulation::fiber().group};
    if (valid) std::memcpy(copy.bytes, from, BYTES);
    if (emulation::order() == emulation::ROUND_ROBIN)
        std::memcpy(to, copy.bytes, BYTES);  // at once, in one of the orders
    else
        emulation::fiber().copies.push_back(copy);
}

inline void end_copies() { emulation::fiber().group++; }

template <int PENDING>
void wait_for_copies() {
    emulation::finish_copies(PENDING);
}

struct Four {
    uint32_t at[4];
};

// Lane l of the result i holds two neighbours of row l / 4 of matrix i; transposed, of column l / 4.
inline void load_four(uint32_t (&to)[4], const void* row, bool transposed) {
    emulation::check_shared(row, 16, 16);
    Four result;
    emulation::together(transposed ? "ldmatrix.trans" : "ldmatrix", row, result, [=](const void* const* rows, Four* out) {
        for (int matrix = 0; matrix < 4; matrix++) {
            uint16_t numbers[8][8];
            for (int i = 0; i < 8; i++) std::memcpy(numbers[i], rows[8 * matrix + i], 16);
            for (int lane = 0; lane < WARP; lane++) {
                const int i = lane / 4, j = lane % 4 * 2;
                const uint32_t low = transposed ? numbers[j][i] : numbers[i][j];
                const uint32_t high = transposed ? numbers[j + 1][i] : numbers[i][j + 1];
                out[lane].at[matrix] = low | high << 16;
            }
        }
    });
    std::memcpy(to, result.at, sizeof(to));
}

inline void load_matrices(uint32_t (&to)[4], const void* row) { load_four(to, row, false); }
inline void load_matrices_transposed(uint32_t (&to)[4], const void* row) { load_four(to, row, true); }

inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

inline float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline float float_of_bfloat16(uint16_t bits) { return float_of((uint32_t)bits << 16); }

inline float float_of_float16(uint16_t bits) {
    _Float16 x;
    std::memcpy(&x, &bits, 2);
    return x;
}

inline uint16_t bfloat16_of(float x) {
    const uint32_t bits = bits_of(x);
    if (x != x) return 0x7FFF;
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

inline uint16_t float16_of(float x) {
    const _Float16 half = x;
    uint16_t bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}

inline uint32_t two_bfloat16(float first, float second) { return bfloat16_of(first) | (uint32_t)bfloat16_of(second) << 16; }
inline uint32_t two_float16(float first, float second) { return float16_of(first) | (uint32_t)float16_of(second) << 16; }

// To nearest, ties away from zero, 13 bits dropped.
inline uint32_t tf32_of(float x) { return x != x ? 0x7FFFFFFF : (bits_of(x) + 0x1000) & ~0x1FFFu; }

inline float power_of_two(float x) { return x < -126 ? 0.0f : std::exp2(x); }
inline float binary_logarithm(float x) { return std::log2(x); }

struct Factors {
    uint32_t a[4], b[2];
};
struct Sums {
    float at[4];
};

// Tensor cores add in few bits more than float32 has and cut the rest off (Ootomo and Yokota, "Recovering single precision
// accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance", 2022); here the cut is at float32.
inline float cut_off(double x) {
    const float nearest = x;
    return std::abs((double)nearest) > std::abs(x) ? std::nextafterf(nearest, 0.0f) : nearest;
}

// What the lanes hold: a (16 x depth) row-major in lane 4 g + t as rows g and g + 8, b (depth x 8) as column g. With two
// numbers a register (depth 16) inner indices 2t, 2t + 1 and those plus 8; with one (depth 8) t and t + 4.
template <class Value>
void multiply_warp(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const char* name, int each,
                   const Value& value) {
    struct In {
        Factors factors;
        float sums[4];
    } in{{{a[0], a[1], a[2], a[3]}, {b0, b1}}, {sums[0], sums[1], sums[2], sums[3]}};
    Sums results;
    emulation::together(name, in, results, [&](const In* lanes, Sums* out) {
        float left[16][16], right[16][8];
        double product[16][8];
        for (int lane = 0; lane < WARP; lane++) {
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 4; i++)
                for (int e = 0; e < each; e++)
                    left[g + i % 2 * 8][each * t + e + i / 2 * 4 * each] = value(lanes[lane].factors.a[i], e);
            for (int i = 0; i < 2; i++)
                for (int e = 0; e < each; e++) right[each * t + e + i * 4 * each][g] = value(lanes[lane].factors.b[i], e);
        }
        for (int row = 0; row < 16; row++) {
            for (int column = 0; column < 8; column++) product[row][column] = 0;
            for (int k = 0; k < 8 * each; k++)
                for (int column = 0; column < 8; column++) product[row][column] += (double)left[row][k] * right[k][column];
        }
        for (int lane = 0; lane < WARP; lane++)
            for (int i = 0; i < 4; i++)
                out[lane].at[i] = cut_off(lanes[lane].sums[i] + product[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
    });
    std::memcpy(sums, results.at, sizeof(sums));
}

inline void multiply_add_bfloat16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_warp(sums, a, b0, b1, "mma.bf16", 2, [](uint32_t x, int e) { return float_of_bfloat16(x >> 16 * e); });
}

inline void multiply_add_float16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_warp(sums, a, b0, b1, "mma.f16", 2, [](uint32_t x, int e) { return float_of_float16(x >> 16 * e); });
}

inline void multiply_add_tf32(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    for (uint32_t bits : {a[0], a[1], a[2], a[3], b0, b1})
        if (bits & 0x1FFF && (bits & 0x7FFFFFFF) < 0x7F800000) emulation::fail("a factor that is not TensorFloat-32");
    multiply_warp(sums, a, b0, b1, "mma.tf32", 1, [](uint32_t x, int) { return float_of(x); });
}

template <class Kernel, class Arguments>
void launch(Kernel kernel, int columns, int rows, int threads, int bytes, const Arguments& arguments) {
    emulation::run(kernel, columns, rows, threads, bytes, arguments);
}

}  // namespace jseg
