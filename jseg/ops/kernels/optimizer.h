// One pass over many tensors at once: sums of squares, and AdamW in place.
//
// Tensors are cut into pieces, so that large and small ones share the threads evenly; sums are added in the same order
// for any number of threads.
#pragma once

#include <algorithm>

#include "half.h"
#include "optimizer_rule.h"

namespace jseg {

constexpr int64_t PIECE = 1 << 14;  // numbers

struct Piece {
    long tensor, start, stop;
};

static inline std::vector<Piece> pieces(const Tensors& tensors, long count) {
    std::vector<Piece> found;
    for (long tensor = 0; tensor < count; tensor++)
        for (int64_t start = 0; start < tensors[tensor].size; start += PIECE)
            found.push_back({tensor, start, std::min(start + PIECE, tensors[tensor].size)});
    return found;
}

// The numbers of a piece as float: its own, or copies of halves.
static inline const float* widened(const Tensor& tensor, const Piece& piece, std::vector<float>& copies) {
    if (tensor.kind == FLOAT32) return static_cast<const float*>(tensor.start) + piece.start;
    const uint16_t* halves = static_cast<const uint16_t*>(tensor.start) + piece.start;
    copies.resize(piece.stop - piece.start);
    for (size_t i = 0; i < copies.size(); i++)
        copies[i] = tensor.kind == BFLOAT16 ? Bfloat16::wide(halves[i]) : Float16::wide(halves[i]);
    return copies.data();
}

// sums: one for each tensor.
template <class Numbers>
static inline void square_sums(const Numbers&, const Tensors& tensors, float* sums) {
    const std::vector<Piece> all = pieces(tensors, tensors.size());
    std::vector<double> parts(all.size()), totals(tensors.size(), 0.0);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < all.size(); i++) {
        std::vector<float> copies;
        const float* x = widened(tensors[all[i].tensor], all[i], copies);
        const long size = all[i].stop - all[i].start;
        double sum = 0;
        for (long first = 0; first < size; first += 256) {  // float keeps its digits over few numbers
            float part = 0;
            for (long k = first; k < std::min(first + 256, size); k++) part += x[k] * x[k];
            sum += part;
        }
        parts[i] = sum;
    }
    for (size_t i = 0; i < all.size(); i++) totals[all[i].tensor] += parts[i];
    for (size_t tensor = 0; tensor < totals.size(); tensor++) sums[tensor] = totals[tensor];
}

// See `factor_of`.
template <class Numbers>
static inline void step_factor(const Numbers& number, const float* squares, const double* sums, float* factor) {
    double square = 0;
    for (long i = 0; i < number("tensors"); i++) square += squares[i];
    *factor = factor_of(square, sums, number("sums"), number("highest"));
}

// tensors: all weights, then their gradients, running means m, and v, then copies of 16 bits, or the weights themselves.
// Where `factor` on the gradients is not above 0 nothing changes; else `steps` so far become `next`.
template <class Numbers>
static inline void adamw(const Numbers& number, const Tensors& tensors, const int32_t* steps, const float* factor,
                         const float* decays, int32_t* next) {
    const bool runs = *factor > 0;
    *next = *steps + runs;
    if (!runs) return;
    const Settings settings(number);
    const Rule rule = rule_of_step(settings, *next);
    const long count = tensors.size() / 5;
    const std::vector<Piece> all = pieces(tensors, count);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < all.size(); i++) {
        const Tensor* const tensor = &tensors[all[i].tensor];
        const long size = all[i].stop - all[i].start;
        float* const __restrict__ weights = static_cast<float*>(tensor[0].start) + all[i].start;
        float* const __restrict__ m = static_cast<float*>(tensor[2 * count].start) + all[i].start;
        float* const __restrict__ v = static_cast<float*>(tensor[3 * count].start) + all[i].start;
        std::vector<float> copies;
        const float* const __restrict__ gradient = widened(tensor[count], all[i], copies);
        const float kept = weight_kept(settings, decays[all[i].tensor]), scale = *factor;
        for (long k = 0; k < size; k++) update(rule, kept, gradient[k] * scale, weights[k], m[k], v[k]);
        const Tensor& rounded = tensor[4 * count];
        if (rounded.kind == FLOAT32) continue;
        uint16_t* const halves = static_cast<uint16_t*>(rounded.start) + all[i].start;
        for (long k = 0; k < size; k++)
            halves[k] = rounded.kind == BFLOAT16 ? Bfloat16::half(weights[k]) : Float16::half(weights[k]);
    }
}

}  // namespace jseg
