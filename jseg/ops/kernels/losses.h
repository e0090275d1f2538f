// Focal and dice sums over masks, and their gradients: one pass each over the logits, masks made from labels on the fly.
//
// The formulae are those of jseg/model/losses.py. Logits are (planes, pixels) with plane = image * classes + class; labels
// are (images, pixels). Sizes and settings come by name from `number`.
#pragma once

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace jseg {

struct Maps {
    long images, classes, pixels;
    template <class Numbers>
    explicit Maps(const Numbers& number)
        : images(number("images")), classes(number("classes")), pixels(number("pixels")) {}
};

constexpr long CHUNK = 2048;  // pixels; sums of chunks are added in double and in order

static inline Vector mask_of(const int32_t* labels, int32_t label, long count) {
    Integers found;
    for (int i = 0; i < LANES; i++) found[i] = -1;
    std::memcpy(&found, labels, count * sizeof(int32_t));
    return found == label ? every(1.0f) : every(0.0f);
}

static inline Vector absolute(Vector x) { return x < 0.0f ? -x : x; }

// exp(-|x|) and 1 / (1 + exp(-x)), exact to rounding for every finite x.
static inline void sigmoid_parts(Vector x, Vector& decay, Vector& sigmoid) {
    decay = exp_of(-absolute(x));
    sigmoid = (x >= 0.0f ? every(1.0f) : decay) / (1.0f + decay);
}

static inline Vector power(Vector x, float exponent) {
    if (exponent == 2) return x * x;
    if (exponent == 0) return every(1.0f);
    return x > 0.0f ? exp2_of(log_of(larger(every(1e-37f), x)) * (exponent * LOG2_E)) : x;  // 0 of 0, NaN of NaN
}

// Calls `visit(place, x, mask, count)` for LANES pixels at a time of every plane and returns its Vectors' sums.
template <int SUMS, class Visit>
static inline void each_plane(const Maps& maps, const float* logits, const int32_t* labels, float* sums,
                              const Visit& visit) {
#pragma omp parallel for schedule(dynamic, 1)
    for (long plane = 0; plane < maps.images * maps.classes; plane++) {
        const int32_t label = plane % maps.classes;
        const int32_t* own = labels + plane / maps.classes * maps.pixels;
        double totals[SUMS + 1] = {};
        for (long start = 0; start < maps.pixels; start += CHUNK) {
            const long end = std::min(maps.pixels, start + CHUNK);
            Vector parts[SUMS + 1] = {};
            for (long i = start; i < end; i += LANES) {
                const long count = std::min<long>(LANES, end - i), place = plane * maps.pixels + i;
                visit(plane, place, load_some(logits + place, count), mask_of(own + i, label, count), count, parts);
            }
            for (int k = 0; k < SUMS; k++) totals[k] += sum_of(parts[k]);
        }
        for (int k = 0; k < SUMS; k++) sums[plane * SUMS + k] = totals[k];
    }
}

static inline Vector first_lanes(Vector x, long count) {
    if (count < LANES)
        for (long i = count; i < LANES; i++) x[i] = 0;
    return x;
}

// sums (planes): sums over pixels of the focal loss.
template <class Numbers>
static inline void focal_forward(const Numbers& number, const float* logits, const int32_t* labels, float* sums) {
    const float alpha = number("alpha"), gamma = number("gamma");
    each_plane<1>(Maps(number), logits, labels, sums, [=](long, long, Vector x, Vector mask, long count, Vector* parts) {
        const Vector z = x * (1.0f - 2.0f * mask);
        Vector decay, error;
        sigmoid_parts(z, decay, error);
        const Vector cost = larger(every(0.0f), z) + log_of(1.0f + decay);
        const Vector weight = (1 - alpha) + (2 * alpha - 1) * mask;
        parts[0] += first_lanes(weight * cost * power(error, gamma), count);
    });
}

// Gradient of the logits; grad_sum (1): that of the sum over all planes of the mean over pixels.
template <class Numbers>
static inline void focal_backward(const Numbers& number, const float* logits, const int32_t* labels, const float* grad_sum,
                                  float* grad) {
    const float alpha = number("alpha"), gamma = number("gamma"), factor = grad_sum[0] / number("pixels");
    each_plane<0>(Maps(number), logits, labels, nullptr, [=](long, long place, Vector x, Vector mask, long count, Vector*) {
        const Vector sign = 1.0f - 2.0f * mask, z = x * sign;
        Vector decay, error;
        sigmoid_parts(z, decay, error);
        const Vector cost = larger(every(0.0f), z) + log_of(1.0f + decay);
        const Vector weight = (1 - alpha) + (2 * alpha - 1) * mask;
        const Vector right = (z >= 0.0f ? decay : every(1.0f)) / (1.0f + decay);  // 1 - error, with all its digits
        store_some(grad + place, factor * sign * weight * power(error, gamma) * (error + gamma * right * cost), count);
    });
}

// sums (planes, 3): overlap of probability and mask, probability, mask.
template <class Numbers>
static inline void dice_forward(const Numbers& number, const float* logits, const int32_t* labels, float* sums) {
    each_plane<3>(Maps(number), logits, labels, sums, [=](long, long, Vector x, Vector mask, long count, Vector* parts) {
        Vector decay, probability;
        sigmoid_parts(x, decay, probability);
        parts[0] += probability * mask;
        parts[1] += first_lanes(probability, count);
        parts[2] += mask;
    });
}

// Gradient of the logits from the gradients of the probabilities, `outside - inside * mask`: slopes (planes, 2).
template <class Numbers>
static inline void dice_backward(const Numbers& number, const float* logits, const int32_t* labels, const float* slopes,
                                 float* grad) {
    each_plane<0>(Maps(number), logits, labels, nullptr, [=](long plane, long place, Vector x, Vector mask, long count, Vector*) {
        const Vector decay = exp_of(-absolute(x)), slope = decay / ((1.0f + decay) * (1.0f + decay));
        store_some(grad + place, (slopes[2 * plane] - slopes[2 * plane + 1] * mask) * slope, count);
    });
}

}  // namespace jseg
