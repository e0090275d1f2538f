// Linear layers with everything around them fused, layer normalisation, dropout: forward and backward.
//
// Sizes and settings come by name from `number`.
#pragma once

#include <cmath>
#include <vector>

#include "gemm.h"

namespace jseg {

static inline Vector quick_gelu_gate(Vector x) { return 1.0f / (1.0f + exp2_of(smaller(every(126.0f), x * (-1.702f * LOG2_E)))); }

static inline Vector activated(Vector x, Activation activation) {
    if (activation == RELU) return larger(every(0.0f), x);
    if (activation == QUICK_GELU) return x * quick_gelu_gate(x);
    return x;
}

// Derivative of the activation where its input was `before`; for RELU `before` may be the output as well.
static inline Vector activation_slope(Vector before, Activation activation) {
    if (activation == RELU) return before > 0.0f ? every(1.0f) : every(0.0f);
    if (activation == QUICK_GELU) return quick_gelu_slope(before, quick_gelu_gate(before));
    return every(1.0f);
}

// out (rows, columns) = activation(x (rows, depth) weight^T + bias) + residual; `before` gets what goes into the
// activation, unless it is null. weight: (columns, depth). bias and residual are read where numbers of their names say so.
template <class Numbers>
static inline void linear_forward(const Numbers& number, const float* x, const float* weight, const float* bias,
                                  const float* residual, float* out, float* before = nullptr) {
    const long rows = number("rows"), columns = number("columns"), depth = number("depth");
    const Activation activation = (Activation)(int)number("activation");
    if (!number("bias")) bias = nullptr;
    if (!number("residual")) residual = nullptr;
    product<ROWS>(rows, columns, depth, x, depth, weight, depth, true, out, columns,
                  [=](long row, long column, Vector sum, auto count) {
                      const long place = row * columns + column;
                      if (bias) sum += load_some(bias + column, count);
                      if (before) store_some(before + place, sum, count);
                      sum = activated(sum, activation);
                      return residual ? sum + load_some(residual + place, count) : sum;
                  });
}

// Sums over rows of x (rows, columns).
static inline void column_sums(long rows, long columns, const float* x, float* sums) {
#pragma omp parallel for schedule(static)
    for (long column = 0; column < columns; column += LANES) {
        const long count = std::min<long>(LANES, columns - column);
        Vector total = {};
        for (long first = 0; first < rows; first += 64) {  // in two steps, so that float keeps its digits
            Vector part = {};
            for (long row = first; row < std::min(rows, first + 64); row++)
                part += load_some(x + row * columns + column, count);
            total += part;
        }
        store_some(sums + column, total, count);
    }
}

// Gradients of linear_forward, as many as numbers ask for: `first`, `second`, `third` are those of x, weight and bias that
// are wanted, in this order. `before` as it was given out (the output itself will do for RELU).
template <class Numbers>
static inline void linear_backward(const Numbers& number, const float* x, const float* weight, const float* before,
                                   const float* grad_out, float* first, float* second = nullptr, float* third = nullptr) {
    const long rows = number("rows"), columns = number("columns"), depth = number("depth");
    const Activation activation = (Activation)(int)number("activation");
    float *const outputs[] = {first, second, third}, *const* next = outputs;
    float* const grad_x = number("grad_x") ? *next++ : nullptr;
    float* const grad_weight = number("grad_weight") ? *next++ : nullptr;
    float* const grad_bias = number("grad_bias") ? *next++ : nullptr;
    Buffer inner = new_buffer(activation == NONE ? 0 : rows * columns + LANES);
    const float* grad = grad_out;
    if (activation != NONE) {
        const long size = rows * columns;
#pragma omp parallel for schedule(static)
        for (long i = 0; i < size; i += LANES) {
            const long count = std::min<long>(LANES, size - i);
            store(inner.get() + i, load_some(grad_out + i, count) * activation_slope(load_some(before + i, count), activation));
        }
        grad = inner.get();
    }
    const auto as_is = [](long, long, Vector sum, auto) { return sum; };
    if (grad_x) product<ROWS>(rows, depth, columns, grad, columns, weight, depth, false, grad_x, depth, as_is);
    if (grad_weight) product<COLUMNS>(columns, depth, rows, grad, columns, x, depth, false, grad_weight, depth, as_is);
    if (grad_bias) column_sums(rows, columns, grad, grad_bias);
}

// out = (x - mean) / sqrt(variance + eps) * weight + bias over the last axis; statistics (rows, 2) get the mean and the
// inverse of the root. The mean is taken off before squaring: variances may be small beside it.
template <class Numbers>
static inline void norm_forward(const Numbers& number, const float* x, const float* weight, const float* bias, float* out,
                                float* statistics) {
    const long rows = number("rows"), width = number("width");
    const float eps = number("eps");
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        const float* from = x + row * width;
        float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (long i = 0; i < width; i++) sum += from[i];
        const float mean = sum / width;
#pragma omp simd reduction(+ : squares)
        for (long i = 0; i < width; i++) squares += (from[i] - mean) * (from[i] - mean);
        const float inverse = 1 / std::sqrt(squares / width + eps);
        for (long i = 0; i < width; i++) out[row * width + i] = (from[i] - mean) * inverse * weight[i] + bias[i];
        statistics[2 * row] = mean;
        statistics[2 * row + 1] = inverse;
    }
}

// Gradients of norm_forward; grad_weight and grad_bias may be null, both together.
template <class Numbers>
static inline void norm_backward(const Numbers& number, const float* x, const float* weight, const float* statistics,
                                 const float* grad_out, float* grad_x, float* grad_weight = nullptr,
                                 float* grad_bias = nullptr) {
    const long rows = number("rows"), width = number("width");
    const long block = 64, blocks = (rows + block - 1) / block;  // sums in the same order for any number of threads
    std::vector<float> parts(grad_weight ? 2 * blocks * width : 0, 0.0f);
#pragma omp parallel for schedule(static)
    for (long part = 0; part < blocks; part++) {
        for (long row = part * block; row < std::min(rows, (part + 1) * block); row++) {
            const float *from = x + row * width, *grad = grad_out + row * width;
            float* to = grad_x + row * width;
            const float mean = statistics[2 * row], inverse = statistics[2 * row + 1];
            float sum = 0, along = 0;
#pragma omp simd reduction(+ : sum, along)
            for (long i = 0; i < width; i++) {
                const float weighted = grad[i] * weight[i];
                sum += weighted;
                along += weighted * (from[i] - mean) * inverse;
            }
            sum /= width;
            along /= width;
            for (long i = 0; i < width; i++)
                to[i] = (grad[i] * weight[i] - sum - (from[i] - mean) * inverse * along) * inverse;
            if (grad_weight) {
                float *of_weight = &parts[2 * part * width], *of_bias = of_weight + width;
                for (long i = 0; i < width; i++) {
                    of_weight[i] += grad[i] * (from[i] - mean) * inverse;
                    of_bias[i] += grad[i];
                }
            }
        }
    }
    for (long i = 0; grad_weight && i < width; i++) {
        float of_weight = 0, of_bias = 0;
        for (long part = 0; part < blocks; part++) {
            of_weight += parts[2 * part * width + i];
            of_bias += parts[(2 * part + 1) * width + i];
        }
        grad_weight[i] = of_weight;
        grad_bias[i] = of_bias;
    }
}

// out = x * factors, which are 0 or 1 / (1 - rate); the same seed gives the same factors, so this is its own gradient.
template <class Numbers>
static inline void dropout(const Numbers& number, const float* x, const void* number_of_seed, float* out) {
    const long size = number("size");
    const float rate = number("rate");
    const uint64_t seed = seed_of(number_of_seed);
    const uint32_t threshold = drop_threshold(rate);
#pragma omp parallel for schedule(static)
    for (long start = 0; start < size; start += STREAM) {
        const uint64_t key = stream_key(seed, start / STREAM);
        for (long i = start; i < std::min(size, start + STREAM); i += LANES) {
            const long count = std::min<long>(LANES, size - i);
            store_some(out + i, load_some(x + i, count) * kept(key, i - start, threshold, 1 / (1 - rate)), count);
        }
    }
}

}  // namespace jseg
