// Focal and dice sums over masks, and their gradients. Logits are on the patch grid and resized to the pixels of the labels
// (bilinear, `align_corners=False`) line by line, masks are made from labels on the fly: neither is ever stored.
//
// The formulae are those of jseg/model/losses.py. Logits are (planes, grid height, grid width) with plane = image * classes
// + class; labels are (images, height, width). `rows` (3, height) and `columns` (3, width) are what each line of pixels is
// made of: the line of the grid before it, the one behind it, the share of that. Sizes and settings come by name from
// `number`.
#pragma once

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace jseg {

struct Maps {
    long images, classes, height, width, grid_height, grid_width;
    template <class Numbers>
    explicit Maps(const Numbers& number)
        : images(number("images")), classes(number("classes")), height(number("height")), width(number("width")),
          grid_height(number("grid_height")), grid_width(number("grid_width")) {}
};

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

// Calls `visit(plane, x, mask, count, parts)` for LANES pixels at a time; writes the sums of its parts over a plane, or,
// with SUMS = 0, adds up what it returns to the gradient of the grid.
template <int SUMS, class Visit>
static inline void each_plane(const Maps& maps, const float* logits, const int32_t* labels, const float* rows,
                              const float* columns, float* sums, float* grad, const Visit& visit) {
    const long width = maps.width, grid_width = maps.grid_width;
    const float* share = columns + 2 * width;
    std::vector<long> begin(grid_width + 1, width);  // of the pixels that lie behind a column of the grid
    for (long k = grid_width - 1, j = width; k >= 0; begin[k--] = j)
        while (j > 0 && columns[j - 1] >= k) j--;
#pragma omp parallel for schedule(dynamic, 1)
    for (long plane = 0; plane < maps.images * maps.classes; plane++) {
        const int32_t label = plane % maps.classes;
        const int32_t* own = labels + plane / maps.classes * maps.height * width;
        std::vector<float> mixed(grid_width), line(width);
        double totals[SUMS + 1] = {};
        if (!SUMS) std::fill_n(grad + plane * maps.grid_height * grid_width, maps.grid_height * grid_width, 0.0f);
        for (long row = 0; row < maps.height; row++) {
            const long first = (plane * maps.grid_height + (long)rows[row]) * grid_width;
            const long second = (plane * maps.grid_height + (long)rows[maps.height + row]) * grid_width;
            const float below = rows[2 * maps.height + row];
            for (long k = 0; k < grid_width; k++)
                mixed[k] = (1 - below) * logits[first + k] + below * logits[second + k];
            for (long k = 0; k < grid_width; k++) {
                const float left = mixed[k], right = mixed[std::min(k + 1, grid_width - 1)];
                for (long j = begin[k]; j < begin[k + 1]; j++) line[j] = (1 - share[j]) * left + share[j] * right;
            }
            Vector parts[SUMS + 1] = {};
            for (long j = 0; j < width; j += LANES) {
                const long count = std::min<long>(LANES, width - j);
                const Vector mask = mask_of(own + row * width + j, label, count);
                const Vector slopes = visit(plane, load_some(&line[j], count), mask, count, parts);
                if (!SUMS) store_some(&line[j], slopes, count);
            }
            for (int k = 0; k < SUMS; k++) totals[k] += sum_of(parts[k]);  // of a row, in double and in order
            if (SUMS) continue;
            std::fill(mixed.begin(), mixed.end(), 0.0f);
            for (long k = 0; k < grid_width; k++) {
                float left = 0, right = 0;
                for (long j = begin[k]; j < begin[k + 1]; j++) left += (1 - share[j]) * line[j], right += share[j] * line[j];
                mixed[k] += left, mixed[std::min(k + 1, grid_width - 1)] += right;
            }
            for (long k = 0; k < grid_width; k++) {
                grad[first + k] += (1 - below) * mixed[k];
                grad[second + k] += below * mixed[k];
            }
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
static inline void mask_sums(const Numbers& number, const float* logits, const int32_t* labels, const float* rows,
                             const float* columns, float* focal, float* dice, float* masks, float* slopes, float* sums) {
    const float alpha = number("alpha"), gamma = number("gamma");
    const Maps maps(number);
    const auto visit = [=](long, Vector x, Vector mask, long count, Vector* parts) {
        const FocalParts f(x, mask, alpha);
        const Vector probability = (x >= 0.0f ? every(1.0f) : f.decay) / (1.0f + f.decay);
        parts[0] += first_lanes(f.weight * f.cost * power(f.error, gamma), count);
        parts[1] += probability * mask;
        parts[2] += first_lanes(probability, count);
        parts[3] += mask;
        return x;
    };
    each_plane<4>(maps, logits, labels, rows, columns, sums, nullptr, visit);
    double totals[3] = {};
    for (long plane = 0; plane < maps.images * maps.classes; plane++, sums += 4, slopes += 2) {
        const float present = sums[3] > 0, area = sums[2] + sums[3] + 1, overlap = 2 * sums[1] + 1;
        slopes[0] = present * overlap / (area * area), slopes[1] = present * 2 / area;
        totals[0] += sums[0], totals[1] += present * (1 - overlap / area), totals[2] += present;
    }
    *focal = totals[0] / (maps.height * maps.width), *dice = totals[1], *masks = totals[2];
}

// Gradient of the logits from those of the focal and the dice sum, (1) each.
template <class Numbers>
static inline void mask_gradient(const Numbers& number, const float* logits, const int32_t* labels, const float* rows,
                                 const float* columns, const float* slopes, const float* grad_focal, const float* grad_dice,
                                 float* grad) {
    const Maps maps(number);
    const float alpha = number("alpha"), gamma = number("gamma"), of_dice = *grad_dice;
    const float factor = *grad_focal / (maps.height * maps.width);
    const auto visit = [=](long plane, Vector x, Vector mask, long, Vector*) {
        const FocalParts f(x, mask, alpha);
        const Vector right = (f.z >= 0.0f ? f.decay : every(1.0f)) / (1.0f + f.decay);  // 1 - error, with all its digits
        const Vector by_logit = f.decay / ((1.0f + f.decay) * (1.0f + f.decay));
        return factor * f.sign * f.weight * power(f.error, gamma) * (f.error + gamma * right * f.cost) +
               of_dice * (slopes[2 * plane] - slopes[2 * plane + 1] * mask) * by_logit;
    };
    each_plane<0>(maps, logits, labels, rows, columns, nullptr, grad, visit);
}

}  // namespace jseg
