// losses.h on CUDA: the same functions.
#pragma once

#include "formulae.h"
#include "primitives.cuh"

namespace jseg {

constexpr int LOSS_THREADS = 256, CHUNK = 4 * LOSS_THREADS;  // pixels of a block in the gradients

struct LossArguments {
    int classes;
    long pixels;
    float alpha, gamma;
    const float* logits;    // (planes, pixels)
    const int32_t* labels;  // (images, pixels)
    const float* factors;
    float* out;
};

__device__ __forceinline__ bool is_of_class(const LossArguments& a, long plane, long pixel) {
    return a.labels[plane / a.classes * a.pixels + pixel] == plane % a.classes;
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

// Sums over the pixels of a plane, which is a block's: out (planes, SUMS). `visit(x, mask, sums)`
template <int SUMS, class Visit>
__device__ __forceinline__ void sum_plane(const LossArguments& a, const Visit& visit) {
    const long plane = block_column();
    float sums[SUMS] = {};
    for (long first = thread_index(); first < a.pixels; first += 32 * LOSS_THREADS) {  // in two steps: float keeps its digits
        float parts[SUMS] = {};
        for (long pixel = first; pixel < min(a.pixels, first + 32 * LOSS_THREADS); pixel += LOSS_THREADS)
            visit(a.logits[plane * a.pixels + pixel], is_of_class(a, plane, pixel), parts);
        for (int s = 0; s < SUMS; s++) sums[s] += parts[s];
    }
    float* const shared = reinterpret_cast<float*>(shared_memory());  // (SUMS, LOSS_THREADS)
    for (int s = 0; s < SUMS; s++) shared[s * LOSS_THREADS + thread_index()] = sums[s];
    for (int half = LOSS_THREADS / 2; half > 0; half /= 2) {
        synchronise_block();
        for (int s = 0; s < SUMS && thread_index() < half; s++)
            shared[s * LOSS_THREADS + thread_index()] += shared[s * LOSS_THREADS + thread_index() + half];
    }
    if (thread_index() == 0)
        for (int s = 0; s < SUMS; s++) a.out[plane * SUMS + s] = shared[s * LOSS_THREADS];
}

// out (planes, pixels): `visit(x, mask, plane)` of every pixel.
template <class Visit>
__device__ __forceinline__ void map_plane(const LossArguments& a, const Visit& visit) {
    const long plane = block_row(), first = (long)block_column() * CHUNK + thread_index();
    for (long pixel = first; pixel < min(a.pixels, first + CHUNK); pixel += LOSS_THREADS)
        a.out[plane * a.pixels + pixel] = visit(a.logits[plane * a.pixels + pixel], is_of_class(a, plane, pixel), plane);
}

__global__ void __launch_bounds__(LOSS_THREADS) focal_kernel(const LossArguments a) {
    sum_plane<1>(a, [&](float x, bool mask, float (&sums)[1]) {
        const FocalParts parts = focal_parts(x, mask, a.alpha);
        sums[0] += parts.weight * parts.cost * power(parts.error, a.gamma);
    });
}

__global__ void __launch_bounds__(LOSS_THREADS) focal_gradient_kernel(const LossArguments a) {
    const float factor = a.factors[0] / a.pixels;
    map_plane(a, [&](float x, bool mask, long) {
        const FocalParts f = focal_parts(x, mask, a.alpha);
        const float right = (f.z >= 0 ? f.decay : 1.0f) / (1 + f.decay);  // 1 - error, with all its digits
        return factor * f.sign * f.weight * power(f.error, a.gamma) * (f.error + a.gamma * right * f.cost);
    });
}

__global__ void __launch_bounds__(LOSS_THREADS) dice_kernel(const LossArguments a) {
    sum_plane<3>(a, [&](float x, bool mask, float (&sums)[3]) {
        const float probability = sigmoid_parts(x).sigmoid;
        sums[0] += mask ? probability : 0.0f;
        sums[1] += probability;
        sums[2] += mask ? 1.0f : 0.0f;
    });
}

__global__ void __launch_bounds__(LOSS_THREADS) dice_gradient_kernel(const LossArguments a) {
    map_plane(a, [&](float x, bool mask, long plane) {
        const float decay = sigmoid_parts(x).decay, slope = decay / ((1 + decay) * (1 + decay));
        return (a.factors[2 * plane] - (mask ? a.factors[2 * plane + 1] : 0.0f)) * slope;
    });
}

template <class Numbers>
LossArguments loss_arguments(const Numbers& number, const float* logits, const int32_t* labels, const float* factors, float* out) {
    return {(int)number("classes"), (long)number("pixels"), 0, 0, logits, labels, factors, out};
}

template <class Numbers>
int planes(const Numbers& number) {
    return number("images") * number("classes");
}

template <class Numbers>
void focal_forward(const Numbers& number, const float* logits, const int32_t* labels, float* sums) {
    LossArguments a = loss_arguments(number, logits, labels, nullptr, sums);
    a.alpha = number("alpha"), a.gamma = number("gamma");
    launch(focal_kernel, planes(number), 1, LOSS_THREADS, LOSS_THREADS * sizeof(float), a);
}

template <class Numbers>
void focal_backward(const Numbers& number, const float* logits, const int32_t* labels, const float* grad_sum, float* grad) {
    LossArguments a = loss_arguments(number, logits, labels, grad_sum, grad);
    a.alpha = number("alpha"), a.gamma = number("gamma");
    launch(focal_gradient_kernel, (a.pixels + CHUNK - 1) / CHUNK, planes(number), LOSS_THREADS, 0, a);
}

template <class Numbers>
void dice_forward(const Numbers& number, const float* logits, const int32_t* labels, float* sums) {
    const LossArguments a = loss_arguments(number, logits, labels, nullptr, sums);
    launch(dice_kernel, planes(number), 1, LOSS_THREADS, 3 * LOSS_THREADS * sizeof(float), a);
}

template <class Numbers>
void dice_backward(const Numbers& number, const float* logits, const int32_t* labels, const float* slopes, float* grad) {
    const LossArguments a = loss_arguments(number, logits, labels, slopes, grad);
    launch(dice_gradient_kernel, (a.pixels + CHUNK - 1) / CHUNK, planes(number), LOSS_THREADS, 0, a);
}

}  // namespace jseg
