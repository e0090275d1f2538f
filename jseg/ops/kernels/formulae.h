// What C++ and CUDA compute alike: random numbers of dropout, slopes of activations. Numbers may be vectors.
#pragma once

#include <cstdint>

#include "both.h"

namespace jseg {

constexpr float LOG2_E = 1.44269504f;

enum Activation { NONE = 0, RELU = 1, QUICK_GELU = 2 };

// Derivative of x * gate with gate = sigmoid(1.702 x).
template <class Float>
JSEG_BOTH Float quick_gelu_slope(Float x, Float gate) {
    return gate * (1.0f + 1.702f * x * (1.0f - gate));
}

// Counter-based random numbers: 32 well mixed bits per (key, counter).
template <class Unsigned>
JSEG_BOTH Unsigned random_bits(uint32_t key_low, uint32_t key_high, Unsigned counter) {
    Unsigned x = counter * 0x9E3779B9u + key_low;
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x = (x + key_high) * 0x846CA68Bu;
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    return x;
}

// A key of 64 well mixed bits for a stream of random numbers (one step of splitmix64).
JSEG_BOTH uint64_t stream_key(uint64_t seed, uint64_t stream) {
    uint64_t x = seed + (stream + 1) * 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

constexpr int STREAM = 4096;  // numbers that `dropout` draws with one key

// Where 32 random bits are below it, a number is dropped.
JSEG_BOTH uint32_t drop_threshold(double rate) { return rate < 1 ? (uint32_t)(rate * 4294967296.0) : 4294967295u; }

}  // namespace jseg
