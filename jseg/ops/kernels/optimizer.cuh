// optimizer.h on CUDA: a row of blocks for each tensor, a launch for as many tensors as its arguments can hold.
#pragma once

#include <algorithm>

#include "optimizer_rule.h"
#include "primitives.cuh"

namespace jseg {

constexpr int PASS_THREADS = 256;
constexpr int TABLE = 96;  // tensors; with them the arguments stay below 4 KB

// Sum over the threads of a block, for thread 0; `shared` has room for a number of each.
template <class Number>
__device__ __forceinline__ Number block_sum(Number x, Number* shared) {
    shared[thread_index()] = x;
    for (int half = PASS_THREADS / 2; half > 0; half /= 2) {
        synchronise_block();
        if (thread_index() < half) shared[thread_index()] += shared[thread_index() + half];
    }
    return shared[0];
}

struct SquareArguments {
    const float* start[TABLE];
    int64_t size[TABLE];
    float *parts, *sums;  // (tensors, blocks), (tensors)
    int blocks;           // of a tensor
};

__global__ void __launch_bounds__(PASS_THREADS) square_kernel(const SquareArguments a) {
    const int tensor = block_row();
    const float* x = a.start[tensor];
    float sum = 0;
    for (int64_t i = (int64_t)block_column() * PASS_THREADS + thread_index(); i < a.size[tensor]; i += a.blocks * PASS_THREADS)
        sum += x[i] * x[i];
    sum = block_sum(sum, reinterpret_cast<float*>(shared_memory()));
    if (thread_index() == 0) a.parts[tensor * a.blocks + block_column()] = sum;
}

__global__ void __launch_bounds__(PASS_THREADS) add_parts_kernel(const SquareArguments a) {
    double sum = 0;
    for (int i = thread_index(); i < a.blocks; i += PASS_THREADS) sum += a.parts[block_column() * a.blocks + i];
    sum = block_sum(sum, reinterpret_cast<double*>(shared_memory()));
    if (thread_index() == 0) a.sums[block_column()] = sum;
}

// parts: memory for (tensors, number("blocks")) floats.
template <class Numbers>
void square_sums(const Numbers& number, const Tensors& tensors, float* sums, float* parts) {
    SquareArguments a;
    a.blocks = number("blocks");
    for (size_t first = 0; first < tensors.size(); first += TABLE) {
        const int count = std::min<size_t>(TABLE, tensors.size() - first);
        for (int i = 0; i < count; i++) a.start[i] = tensors[first + i].start, a.size[i] = tensors[first + i].size;
        a.parts = parts + first * a.blocks, a.sums = sums + first;
        launch(square_kernel, a.blocks, count, PASS_THREADS, PASS_THREADS * sizeof(float), a);
        launch(add_parts_kernel, count, 1, PASS_THREADS, PASS_THREADS * sizeof(double), a);
    }
}

struct AdamWArguments {
    float *weights[TABLE], *m[TABLE], *v[TABLE];
    const float* gradient[TABLE];
    int64_t size[TABLE];
    Settings settings;
    const int32_t* steps;
    const float *factor, *decays;
    int32_t* next;
    int blocks;
};
static_assert(sizeof(AdamWArguments) <= 4096, "arguments of a kernel");

__global__ void __launch_bounds__(PASS_THREADS) adamw_kernel(const AdamWArguments a) {
    const bool runs = *a.factor > 0;
    const int tensor = block_row(), steps = *a.steps + runs;
    if (block_column() == 0 && tensor == 0 && thread_index() == 0) *a.next = steps;
    if (!runs) return;
    Rule* const shared = reinterpret_cast<Rule*>(shared_memory());
    if (thread_index() == 0) *shared = rule_of_step(a.settings, steps);
    synchronise_block();
    const Rule rule = *shared;
    const float scale = *a.factor, kept = weight_kept(a.settings, a.decays[tensor]);
    float *weights = a.weights[tensor], *m = a.m[tensor], *v = a.v[tensor];
    const float* gradient = a.gradient[tensor];
    for (int64_t i = (int64_t)block_column() * PASS_THREADS + thread_index(); i < a.size[tensor]; i += a.blocks * PASS_THREADS) {
        float weight = weights[i], of_m = m[i], of_v = v[i];
        update(rule, kept, gradient[i] * scale, weight, of_m, of_v);
        weights[i] = weight, m[i] = of_m, v[i] = of_v;
    }
}

template <class Numbers>
void adamw(const Numbers& number, const Tensors& tensors, const int32_t* steps, const float* factor, const float* decays,
           int32_t* next) {
    AdamWArguments a{{}, {}, {}, {}, {}, Settings(number), steps, factor, decays, next, (int)number("blocks")};
    const size_t all = tensors.size() / 4;
    for (size_t first = 0; first < all; first += TABLE, a.decays += TABLE) {
        const int count = std::min<size_t>(TABLE, all - first);
        for (int i = 0; i < count; i++) {
            const Tensor* tensor = &tensors[first + i];
            a.weights[i] = tensor->start, a.size[i] = tensor->size, a.gradient[i] = tensor[all].start;
            a.m[i] = tensor[2 * all].start, a.v[i] = tensor[3 * all].start;
        }
        launch(adamw_kernel, a.blocks, count, PASS_THREADS, sizeof(Rule), a);
    }
}

}  // namespace jseg
