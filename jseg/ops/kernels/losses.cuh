// losses.h on CUDA: the same functions.
#pragma once

#include "formulae.h"
#include "primitives.cuh"

namespace jseg {

constexpr int LOSS_THREADS = 512;

struct LossArguments {
    int classes, planes, height, width, grid_height, grid_width;
    float alpha, gamma;
    const float* logits;           // (planes, grid height, grid width)
    const int32_t* labels;         // (images, height, width)
    const float *rows, *columns;   // see losses.h
    float *slopes, *sums;
    float* totals[3];  // focal, dice, masks
    const float *grad_focal, *grad_dice;
    float* grad;
};

__device__ __forceinline__ bool is_of_class(const LossArguments& a, int plane, int row, int column) {
    return a.labels[((long)(plane / a.classes) * a.height + row) * a.width + column] == plane % a.classes;
}

// The logit of a pixel.
__device__ __forceinline__ float resized(const LossArguments& a, int plane, int row, int column) {
    const int above = a.rows[row], under = a.rows[a.height + row];
    const int left = a.columns[column], right = a.columns[a.width + column];
    const float below = a.rows[2 * a.height + row], share = a.columns[2 * a.width + column];
    const float* const plane_logits = a.logits + (long)plane * a.grid_height * a.grid_width;
    const float *first = plane_logits + above * a.grid_width, *second = plane_logits + under * a.grid_width;
    return (1 - share) * ((1 - below) * first[left] + below * second[left]) +
           share * ((1 - below) * first[right] + below * second[right]);
}

// Number of the first of `count` pixels, which lie behind lines `before` of the grid, that lies behind `line` or a later one.
__device__ __forceinline__ int first_behind(const float* before, int count, int line) {
    int low = 0;
    while (count > 0) {
        const int half = count / 2;
        if (before[low + half] < line)
            low += half + 1, count -= half + 1;
        else
            count = half;
    }
    return low;
}

// Share of a line of the grid in one of `count` pixels.
__device__ __forceinline__ float share_of(const float* taps, int count, int pixel, int line) {
    const float share = taps[2 * count + pixel];
    return (taps[pixel] == line ? 1 - share : 0.0f) + (taps[count + pixel] == line ? share : 0.0f);
}

struct SigmoidParts {
    float decay, sigmoid;  // exp(-|x|), 1 / (1 + exp(-x))
};

__device__ __forceinline__ SigmoidParts sigmoid_parts(float x) {
    const float decay = power_of_two(-fabsf(x) * LOG2_E);
    return {decay, (x >= 0 ? 1.0f : decay) / (1 + decay)};
}

// x in [0, 1]; 1 for exponent 0, whatever x is.
__device__ __forceinline__ float power(float x, float exponent) {
    if (exponent == 2) return x * x;
    if (exponent == 0) return 1;
    return x > 0 ? power_of_two(binary_logarithm(fmaxf(1e-37f, x)) * exponent) : x;  // 0 of 0, NaN of NaN
}

struct FocalParts {
    float sign, error, cost, weight, decay, z;
};

// A pixel costs weight * cost * error^gamma, see jseg/model/losses.py.
__device__ __forceinline__ FocalParts focal_parts(float x, bool mask, float alpha) {
    const float sign = mask ? -1.0f : 1.0f, z = sign * x;
    const SigmoidParts parts = sigmoid_parts(z);
    const float cost = (z > 0 ? z : z < 0 ? 0.0f : z) + binary_logarithm(1 + parts.decay) * 0.693147181f;
    return {sign, parts.sigmoid, cost, mask ? alpha : 1 - alpha, parts.decay, z};
}

// Adds up over the threads of a block; the first one has the results.
template <int SUMS>
__device__ __forceinline__ void add_threads(float (&sums)[SUMS]) {
    float* const shared = reinterpret_cast<float*>(shared_memory());  // (SUMS, LOSS_THREADS)
    for (int s = 0; s < SUMS; s++) shared[s * LOSS_THREADS + thread_index()] = sums[s];
    for (int half = LOSS_THREADS / 2; half > 0; half /= 2) {
        synchronise_block();
        for (int s = 0; s < SUMS && thread_index() < half; s++)
            shared[s * LOSS_THREADS + thread_index()] += shared[s * LOSS_THREADS + thread_index() + half];
    }
    for (int s = 0; s < SUMS && thread_index() == 0; s++) sums[s] = shared[s * LOSS_THREADS];
}

static __device__ unsigned planes_done;  // 0 between launches

// A block owns a plane; the last one adds up over planes.
__global__ void __launch_bounds__(LOSS_THREADS) mask_kernel(const LossArguments a) {
    const int plane = block_column();
    float sums[4] = {};
    for (int row = 0; row < a.height; row++) {
        float parts[4] = {};  // of a row: float keeps its digits
        for (int column = thread_index(); column < a.width; column += LOSS_THREADS) {
            const float x = resized(a, plane, row, column);
            const bool mask = is_of_class(a, plane, row, column);
            const FocalParts f = focal_parts(x, mask, a.alpha);
            const float probability = (x >= 0 ? 1.0f : f.decay) / (1 + f.decay);
            parts[0] += f.weight * f.cost * power(f.error, a.gamma), parts[1] += mask ? probability : 0.0f;
            parts[2] += probability, parts[3] += mask ? 1.0f : 0.0f;
        }
        for (int s = 0; s < 4; s++) sums[s] += parts[s];
    }
    add_threads(sums);
    for (int s = 0; s < 4 && thread_index() == 0; s++) a.sums[4 * plane + s] = sums[s];
    if (!is_last_block(&planes_done, a.planes)) return;
    float totals[3] = {};
    for (int i = thread_index(); i < a.planes; i += LOSS_THREADS) {
        for (int s = 0; s < 4; s++) sums[s] = load_of_any_block(&a.sums[4 * i + s]);
        const float present = sums[3] > 0 ? 1.0f : 0.0f, area = sums[2] + sums[3] + 1, overlap = 2 * sums[1] + 1;
        a.slopes[2 * i] = present * overlap / (area * area), a.slopes[2 * i + 1] = present * 2 / area;
        totals[0] += sums[0] / ((float)a.height * a.width), totals[1] += present * (1 - overlap / area), totals[2] += present;
    }
    add_threads(totals);
    for (int s = 0; s < 3 && thread_index() == 0; s++) *a.totals[s] = totals[s];
}

// A block owns a line of the grid: it adds up over the pixels that have a share of it, first down and then across.
__global__ void __launch_bounds__(LOSS_THREADS) mask_gradient_kernel(const LossArguments a) {
    const int plane = block_row(), line = block_column();
    const float factor = *a.grad_focal / ((float)a.height * a.width), outside = *a.grad_dice * a.slopes[2 * plane];
    const float inside = *a.grad_dice * a.slopes[2 * plane + 1];
    float* const down = reinterpret_cast<float*>(shared_memory());  // (width)
    const int first = first_behind(a.rows, a.height, line - 1), end = first_behind(a.rows, a.height, line + 1);
    for (int column = thread_index(); column < a.width; column += LOSS_THREADS) {
        float sum = 0;
        for (int row = first; row < end; row++) {
            const bool mask = is_of_class(a, plane, row, column);
            const FocalParts f = focal_parts(resized(a, plane, row, column), mask, a.alpha);
            const float right = (f.z >= 0 ? f.decay : 1.0f) / (1 + f.decay);  // 1 - error, with all its digits
            const float by_logit = f.decay / ((1 + f.decay) * (1 + f.decay));
            sum += share_of(a.rows, a.height, row, line) *
                   (factor * f.sign * f.weight * power(f.error, a.gamma) * (f.error + a.gamma * right * f.cost) +
                    (outside - (mask ? inside : 0.0f)) * by_logit);
        }
        down[column] = sum;
    }
    synchronise_block();
    for (int to = thread_index(); to < a.grid_width; to += LOSS_THREADS) {
        float sum = 0;
        const int last = first_behind(a.columns, a.width, to + 1);
        for (int column = first_behind(a.columns, a.width, to - 1); column < last; column++)
            sum += share_of(a.columns, a.width, column, to) * down[column];
        a.grad[((long)plane * a.grid_height + line) * a.grid_width + to] = sum;
    }
}

template <class Numbers>
LossArguments loss_arguments(const Numbers& number, const float* logits, const int32_t* labels, const float* rows,
                             const float* columns) {
    const int classes = number("classes"), planes = (int)number("images") * classes;
    return {classes, planes, (int)number("height"), (int)number("width"), (int)number("grid_height"), (int)number("grid_width"),
            (float)number("alpha"), (float)number("gamma"), logits, labels, rows, columns};
}

template <class Numbers>
void mask_sums(const Numbers& number, const float* logits, const int32_t* labels, const float* rows, const float* columns,
               float* focal, float* dice, float* masks, float* slopes, float* sums) {
    LossArguments a = loss_arguments(number, logits, labels, rows, columns);
    a.totals[0] = focal, a.totals[1] = dice, a.totals[2] = masks, a.slopes = slopes, a.sums = sums;
    launch(mask_kernel, a.planes, 1, LOSS_THREADS, 4 * LOSS_THREADS * sizeof(float), a);
}

template <class Numbers>
void mask_gradient(const Numbers& number, const float* logits, const int32_t* labels, const float* rows, const float* columns,
                   const float* slopes, const float* grad_focal, const float* grad_dice, float* grad) {
    LossArguments a = loss_arguments(number, logits, labels, rows, columns);
    a.slopes = const_cast<float*>(slopes), a.grad_focal = grad_focal, a.grad_dice = grad_dice, a.grad = grad;
    launch(mask_gradient_kernel, a.grid_height, a.planes, LOSS_THREADS, a.width * sizeof(float), a);
}

// --- recovery ------------------------------------------------------------------------------------------------------

// Two pairs of tensors, a row of blocks each.
struct RecoveryArguments {
    const float *x[2], *target[2];
    long size[2];
    int blocks;
    float *parts, *means[2];  // parts: memory for (2, blocks)
    const float* of_mean[2];
    float* grad[2];

    // Calls `visit(i)` for the places of a pair that are this thread's.
    template <class Visit>
    __device__ void each(int pair, const Visit& visit) const {
        for (long i = (long)block_column() * LOSS_THREADS + thread_index(); i < size[pair]; i += blocks * LOSS_THREADS) visit(i);
    }
};

static __device__ unsigned recovery_blocks_done[2];  // of each pair; 0 between launches

// Means of the distances of the pairs.
__global__ void __launch_bounds__(LOSS_THREADS) recovery_kernel(const RecoveryArguments a) {
    const int pair = block_row();
    const float *const x = a.x[pair], *const target = a.target[pair];
    float sum[1] = {};
    a.each(pair, [&](long i) { sum[0] += fabsf(x[i] - target[i]); });
    add_threads(sum);
    float* const parts = a.parts + pair * a.blocks;
    if (thread_index() == 0) parts[block_column()] = sum[0];
    if (!is_last_block(&recovery_blocks_done[pair], a.blocks)) return;
    sum[0] = 0;
    for (int i = thread_index(); i < a.blocks; i += LOSS_THREADS) sum[0] += load_of_any_block(&parts[i]);
    add_threads(sum);
    if (thread_index() == 0) *a.means[pair] = sum[0] / a.size[pair];
}

__global__ void __launch_bounds__(LOSS_THREADS) recovery_gradient_kernel(const RecoveryArguments a) {
    const int pair = block_row();
    const float *const x = a.x[pair], *const target = a.target[pair];
    float* const grad = a.grad[pair];
    const float slope = *a.of_mean[pair] / a.size[pair];
    a.each(pair, [&](long i) {
        const float distance = x[i] - target[i];
        grad[i] = distance > 0 ? slope : distance < 0 ? -slope : 0.0f;
    });
}

template <class Numbers>
RecoveryArguments recovery_arguments(const Numbers& number, const float* x, const float* target, const float* other,
                                     const float* other_target) {
    return {{x, other}, {target, other_target}, {(long)number("size"), (long)number("other_size")}, (int)number("blocks")};
}

template <class Numbers>
void recovery(const Numbers& number, const float* x, const float* target, const float* other, const float* other_target,
              float* mean, float* other_mean, float* parts) {
    RecoveryArguments a = recovery_arguments(number, x, target, other, other_target);
    a.means[0] = mean, a.means[1] = other_mean, a.parts = parts;
    launch(recovery_kernel, a.blocks, 2, LOSS_THREADS, LOSS_THREADS * sizeof(float), a);
}

template <class Numbers>
void recovery_gradient(const Numbers& number, const float* x, const float* target, const float* other,
                       const float* other_target, const float* of_mean, const float* of_other, float* grad, float* other_grad) {
    RecoveryArguments a = recovery_arguments(number, x, target, other, other_target);
    a.of_mean[0] = of_mean, a.of_mean[1] = of_other, a.grad[0] = grad, a.grad[1] = other_grad;
    launch(recovery_gradient_kernel, a.blocks, 2, LOSS_THREADS, 0, a);
}

}  // namespace jseg
