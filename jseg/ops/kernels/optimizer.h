// One pass over many tensors at once: sums of squares, and AdamW in place.
//
// Tensors are cut into pieces, so that large and small ones share the threads evenly; sums are added in the same order
// for any number of threads.
#pragma once

#include <algorithm>

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

// sums: one for each tensor.
template <class Numbers>
static inline void square_sums(const Numbers&, const Tensors& tensors, float* sums) {
    const std::vector<Piece> all = pieces(tensors, tensors.size());
    std::vector<double> parts(all.size()), totals(tensors.size(), 0.0);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < all.size(); i++) {
        const float* x = tensors[all[i].tensor].start;
        double sum = 0;
        for (long first = all[i].start; first < all[i].stop; first += 256) {  // float keeps its digits over few numbers
            float part = 0;
            for (long k = first; k < std::min(first + 256, all[i].stop); k++) part += x[k] * x[k];
            sum += part;
        }
        parts[i] = sum;
    }
    for (size_t i = 0; i < all.size(); i++) totals[all[i].tensor] += parts[i];
    for (size_t tensor = 0; tensor < totals.size(); tensor++) sums[tensor] = totals[tensor];
}

// tensors: all weights, then their gradients, running means m, and v. Where `factor` on the gradients is not above 0
// nothing changes; else `steps` so far become `next`.
template <class Numbers>
static inline void adamw(const Numbers& number, const Tensors& tensors, const int32_t* steps, const float* factor,
                         const float* decays, int32_t* next) {
    const bool runs = *factor > 0;
    *next = *steps + runs;
    if (!runs) return;
    const Settings settings(number);
    const Rule rule = rule_of_step(settings, *next);
    const long count = tensors.size() / 4;
    const std::vector<Piece> all = pieces(tensors, count);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < all.size(); i++) {
        const long tensor = all[i].tensor;
        float *__restrict__ weights = tensors[tensor].start, *__restrict__ m = tensors[tensor + 2 * count].start;
        float *__restrict__ v = tensors[tensor + 3 * count].start, kept = weight_kept(settings, decays[tensor]);
        const float *__restrict__ gradient = tensors[tensor + count].start, scale = *factor;
        for (long k = all[i].start; k < all[i].stop; k++) update(rule, kept, gradient[k] * scale, weights[k], m[k], v[k]);
    }
}

}  // namespace jseg
