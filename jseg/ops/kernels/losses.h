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

// What a focal loss is made of: slope of z, 1 - probability of the truth, cross-entropy, class weight, exp(-|x|), z.
struct FocalParts {
    Vector sign, error, cost, weight, decay, z;
    FocalParts(Vector x, Vector mask, float alpha) : sign(1.0f - 2.0f * mask), weight((1 - alpha) + (2 * alpha - 1) * mask) {
        z = x * sign;
        sigmoid_parts(z, decay, error);
        cost = larger(every(0.0f), z) + log_of(1.0f + decay);
    }
};

// Sums over planes of the mean focal loss over pixels, of the dice loss if the mask is not empty, and of such masks.
// For the gradient: slopes (planes, 2), that of the dice loss by a probability being `first - second * mask`.
// Memory: sums (planes, 4).
template <class Numbers>
static inline void mask_sums(const Numbers& number, const float* logits, const int32_t* labels, float* focal, float* dice,
                             float* masks, float* slopes, float* sums) {
    const float alpha = number("alpha"), gamma = number("gamma");
    const Maps maps(number);
    each_plane<4>(maps, logits, labels, sums, [=](long, long, Vector x, Vector mask, long count, Vector* parts) {
        const FocalParts f(x, mask, alpha);
        const Vector probability = (x >= 0.0f ? every(1.0f) : f.decay) / (1.0f + f.decay);
        parts[0] += first_lanes(f.weight * f.cost * power(f.error, gamma), count);
        parts[1] += probability * mask;
        parts[2] += first_lanes(probability, count);
        parts[3] += mask;
    });
    double totals[3] = {};
    for (long plane = 0; plane < maps.images * maps.classes; plane++, sums += 4, slopes += 2) {
        const float present = sums[3] > 0, area = sums[2] + sums[3] + 1, overlap = 2 * sums[1] + 1;
        slopes[0] = present * overlap / (area * area), slopes[1] = present * 2 / area;
        totals[0] += sums[0], totals[1] += present * (1 - overlap / area), totals[2] += present;
    }
    *focal = totals[0] / maps.pixels, *dice = totals[1], *masks = totals[2];
}

// Gradient of the logits from those of the focal and the dice sum, (1) each.
template <class Numbers>
static inline void mask_gradient(const Numbers& number, const float* logits, const int32_t* labels, const float* slopes,
                                 const float* grad_focal, const float* grad_dice, float* grad) {
    const float alpha = number("alpha"), gamma = number("gamma"), factor = *grad_focal / number("pixels"), of_dice = *grad_dice;
    each_plane<0>(Maps(number), logits, labels, nullptr, [=](long plane, long place, Vector x, Vector mask, long count, Vector*) {
        const FocalParts f(x, mask, alpha);
        const Vector right = (f.z >= 0.0f ? f.decay : every(1.0f)) / (1.0f + f.decay);  // 1 - error, with all its digits
        const Vector by_logit = f.decay / ((1.0f + f.decay) * (1.0f + f.decay));
        store_some(grad + place,
                   factor * f.sign * f.weight * power(f.error, gamma) * (f.error + gamma * right * f.cost) +
                       of_dice * (slopes[2 * plane] - slopes[2 * plane + 1] * mask) * by_logit,
                   count);
    });
}

}  // namespace jseg
