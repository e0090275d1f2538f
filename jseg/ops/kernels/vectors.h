// Vectors of floats in the widest registers of the machine, through GCC's vector extensions.
//
// Everything in this folder compiles on its own (g++ -O3 -march=native -fopenmp) and knows nothing of Jittor.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "formulae.h"

namespace jseg {

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int TILE_ROWS = 12;  // with two vectors of columns: 24 sums of 32 registers
#elif defined(__AVX__)
constexpr int LANES = 8;
constexpr int TILE_ROWS = 6;  // 12 sums of 16 registers
#else
constexpr int LANES = 4;
constexpr int TILE_ROWS = 6;
#endif
constexpr int TILE_COLUMNS = 2 * LANES;

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef int32_t Integers __attribute__((vector_size(LANES * 4)));
typedef uint32_t Unsigned __attribute__((vector_size(LANES * 4)));

static inline Vector load(const float* from) {
    Vector x;
    std::memcpy(&x, from, sizeof(x));
    return x;
}

static inline void store(float* to, Vector x) { std::memcpy(to, &x, sizeof(x)); }

static inline Vector every(float x) { return Vector{} + x; }

typedef std::integral_constant<long, LANES> ALL_LANES;  // a number of lanes that the compiler knows

// The first `count` lanes, at most LANES; the others are 0.
static inline Vector load_some(const float* from, long count) {
    if (count == LANES) return load(from);
    Vector x = {};
    std::memcpy(&x, from, count * sizeof(float));
    return x;
}

static inline void store_some(float* to, Vector x, long count) {
    if (count == LANES) return store(to, x);
    std::memcpy(to, &x, count * sizeof(float));
}

// y where either is NaN: put the value that may be one last, so that it is not lost.
static inline Vector larger(Vector x, Vector y) { return x > y ? x : y; }
static inline Vector smaller(Vector x, Vector y) { return x < y ? x : y; }

static inline float sum_of(Vector x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

static inline float largest_of(Vector x) {
    float largest = x[0];
    for (int i = 1; i < LANES; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

static inline Integers lane_numbers() {
    Integers lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = i;
    return lanes;
}

// Hides from the optimiser where x comes from: fast-math flags would rearrange what rounding depends on.
static inline void opaque(Vector& x) {
#if defined(__aarch64__)
    asm("" : "+w"(x));
#else
    asm("" : "+x"(x));
#endif
}

// 2^x, relative error below 2e-7; 0 below -126.5, NaN of NaN; x must not be above 127.
static inline Vector exp2_of(Vector x) {
    constexpr float SHIFT = 12582912.0f + 127;  // 1.5 * 2^23: what is added to it is rounded to integers
    x = larger(every(-127.0f), x);
    Vector shifted = x + SHIFT;
    opaque(shifted);
    Vector whole = shifted - SHIFT;
    opaque(whole);
    const Vector part = x - whole;  // in [-0.5, 0.5]
    Vector power = every(1.32647326e-3f);
    power = power * part + 9.67151288e-3f;
    power = power * part + 5.55073373e-2f;
    power = power * part + 2.40222421e-1f;
    power = power * part + 6.93146978e-1f;
    power = power * part + 1.0f;
    Integers bits;
    std::memcpy(&bits, &shifted, sizeof(bits));
    bits <<= 23;  // the integer, with the bias of the exponent, is in the lowest bits
    Vector scale;
    std::memcpy(&scale, &bits, sizeof(scale));
    return power * scale;
}

static inline Vector exp_of(Vector x) { return exp2_of(x * LOG2_E); }

// Natural logarithm of normal positive numbers, absolute error below 1e-7 * max(1, |log x|).
static inline Vector log_of(Vector x) {
    Integers bits;
    std::memcpy(&bits, &x, sizeof(bits));
    // split x = 2^e * m with m in [sqrt(1/2), sqrt(2))
    const Integers exponent = (bits - 0x3F3504F3) >> 23;
    bits -= exponent << 23;
    Vector m;
    std::memcpy(&m, &bits, sizeof(m));
    // log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172
    const Vector s = (m - 1.0f) / (m + 1.0f), square = s * s;
    Vector series = every(1.0f / 9);
    series = series * square + 1.0f / 7;
    series = series * square + 1.0f / 5;
    series = series * square + 1.0f / 3;
    series = series * square + 1.0f;
    return __builtin_convertvector(exponent, Vector) * 0.693147181f + 2.0f * s * series;
}

static inline uint64_t seed_of(const void* number) { return *(const uint64_t*)number; }

// Factors 0 or `scale` = 1 / (1 - rate) for LANES neighbours; `threshold` = rate * 2^32.
static inline Vector kept(uint64_t key, uint32_t first, uint32_t threshold, float scale) {
    const Unsigned counters = (Unsigned)lane_numbers() + first;
    const Unsigned bits = random_bits((uint32_t)key, (uint32_t)(key >> 32), counters);
    return bits >= threshold ? every(scale) : every(0.0f);
}

}  // namespace jseg
