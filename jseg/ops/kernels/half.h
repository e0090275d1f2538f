// Conversion between float and the two types of 16 bits, to nearest with ties to even.
#pragma once

#include <cstdint>
#include <cstring>

namespace jseg {

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

static inline float float_of_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

struct Bfloat16 {
    static inline float wide(uint16_t half) { return float_of_bits((uint32_t)half << 16); }

    static inline uint16_t half(float x) {
        const uint32_t bits = bits_of(x), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        return (bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded;  // the first is not a number
    }
};

struct Float16 {
    static inline float wide(uint16_t half) {
        const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
        const uint32_t small = bits_of((float)(int)rest / 16777216.0f);
        const uint32_t large = (rest << 13) + (rest < 0x7c00 ? 112u << 23 : 224u << 23);
        return float_of_bits(sign | (rest < 0x400 ? small : large));
    }

    static inline uint16_t half(float x) {
        const uint32_t bits = bits_of(x), sign = (bits >> 16) & 0x8000, rest = bits & 0x7fffffff;
        const uint32_t small = bits_of(float_of_bits(rest) + 0.5f) - bits_of(0.5f);  // the sum rounds
        const uint32_t large = (rest - (112u << 23) + 0xfff + ((rest >> 13) & 1)) >> 13;
        const uint32_t found = rest < 0x38800000 ? small : rest < 0x477ff000 ? large : 0x7c00;
        return sign | (rest > 0x7f800000 ? 0x7e00 : found);
    }
};

// `number("size")` numbers; the pointers to those of 16 bits may be of any type.
template <class Type, class Numbers>
static inline void to_half(const Numbers& number, const float* x, void* out) {
    const long size = number("size");
    uint16_t* halves = static_cast<uint16_t*>(out);
#pragma omp parallel for simd schedule(static)
    for (long i = 0; i < size; i++) halves[i] = Type::half(x[i]);
}

template <class Type, class Numbers>
static inline void to_float(const Numbers& number, const void* x, float* out) {
    const long size = number("size");
    const uint16_t* halves = static_cast<const uint16_t*>(x);
#pragma omp parallel for simd schedule(static)
    for (long i = 0; i < size; i++) out[i] = Type::wide(halves[i]);
}

}  // namespace jseg
