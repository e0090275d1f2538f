// One pass over many tensors at once: sums of squares, and the update rule of AdamW.
//
// Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019. Tensors are cut into pieces, so that large
// and small ones share the threads evenly; sums are added in the same order for any number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace jseg {

constexpr int64_t PIECE = 1 << 14;  // elements

struct Piece {
    long tensor, start, stop;
};

// `sizes`: number of elements of each tensor, `stride` apart.
static inline std::vector<Piece> pieces(const int64_t* sizes, long stride, long count) {
    std::vector<Piece> found;
    for (long tensor = 0; tensor < count; tensor++)
        for (int64_t start = 0; start < sizes[tensor * stride]; start += PIECE)
            found.push_back({tensor, start, std::min(start + PIECE, sizes[tensor * stride])});
    return found;
}

// table (count, 2): address, size. sums (count): of squares.
static inline void square_sums(const int64_t* table, long count, float* sums) {
    const std::vector<Piece> all = pieces(table + 1, 2, count);
    std::vector<double> parts(all.size());
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < all.size(); i++) {
        const float* x = reinterpret_cast<const float*>(table[2 * all[i].tensor]);
        double sum = 0;
        for (long first = all[i].start; first < all[i].stop; first += 256) {  // float keeps its digits over few elements
            float part = 0;
            for (long k = first; k < std::min(first + 256, all[i].stop); k++) part += x[k] * x[k];
            sum += part;
        }
        parts[i] = sum;
    }
    std::vector<double> totals(count, 0.0);
    for (size_t i = 0; i < all.size(); i++) totals[all[i].tensor] += parts[i];
    for (long tensor = 0; tensor < count; tensor++) sums[tensor] = totals[tensor];
}

// table (count, 5): addresses of weights, gradient, m and v, size. settings (count, 2): step size, weight kept by decay.
// `root`: 1 / sqrt(bias correction of v).
static inline void adamw(const int64_t* table, const float* settings, long count, float beta_m, float rest_m,
                         float beta_v, float rest_v, float root, float eps) {
    const std::vector<Piece> all = pieces(table + 4, 5, count);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < all.size(); i++) {
        const int64_t* row = table + 5 * all[i].tensor;
        float* __restrict__ weights = reinterpret_cast<float*>(row[0]);
        const float* __restrict__ gradient = reinterpret_cast<const float*>(row[1]);
        float* __restrict__ m = reinterpret_cast<float*>(row[2]);
        float* __restrict__ v = reinterpret_cast<float*>(row[3]);
        const float step = settings[2 * all[i].tensor], kept = settings[2 * all[i].tensor + 1];
        for (long k = all[i].start; k < all[i].stop; k++) {
            const float g = gradient[k];
            m[k] = beta_m * m[k] + rest_m * g;
            v[k] = beta_v * v[k] + rest_v * g * g;
            weights[k] = kept * weights[k] - step * m[k] / (std::sqrt(v[k]) * root + eps);
        }
    }
}

}  // namespace jseg
