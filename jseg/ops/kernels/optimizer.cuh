// optimizer.h on CUDA: a row of blocks for each tensor, a launch for as many tensors as its arguments can hold.
#pragma once

#include <algorithm>

#include "optimizer_rule.h"
#include "primitives.cuh"

namespace jseg {

constexpr int PASS_THREADS = 256;
#if defined(CUDART_VERSION) && CUDART_VERSION < 12010
constexpr int TABLE = 80, ARGUMENT_BYTES = 4096;
#else  // tensors, all of this model in one launch; so many arguments since CUDA 12.1
constexpr int TABLE = 256, ARGUMENT_BYTES = 32764;
#endif

__device__ __forceinline__ float read(const void* start, Kind kind, int64_t i) {
    if (kind == FLOAT32) return static_cast<const float*>(start)[i];
    const uint16_t half = static_cast<const uint16_t*>(start)[i];
    return kind == BFLOAT16 ? float_of((uint32_t)half << 16) : float_of_float16(half);
}

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
    const void* start[TABLE];
    int64_t size[TABLE];
    Kind kind[TABLE];
    float *parts, *sums;  // (tensors, blocks), (tensors)
    int blocks;           // of a tensor
};

static __device__ unsigned blocks_done[TABLE];  // of each tensor; 0 between launches

__global__ void __launch_bounds__(PASS_THREADS) square_kernel(const SquareArguments a) {
    const int tensor = block_row();
    float sum = 0;
    for (int64_t i = (int64_t)block_column() * PASS_THREADS + thread_index(); i < a.size[tensor]; i += a.blocks * PASS_THREADS) {
        const float x = read(a.start[tensor], a.kind[tensor], i);
        sum += x * x;
    }
    sum = block_sum(sum, reinterpret_cast<float*>(shared_memory()));
    if (thread_index() == 0) a.parts[tensor * a.blocks + block_column()] = sum;
    if (!is_last_block(&blocks_done[tensor], a.blocks)) return;
    double total = 0;
    for (int i = thread_index(); i < a.blocks; i += PASS_THREADS) total += load_of_any_block(&a.parts[tensor * a.blocks + i]);
    total = block_sum(total, reinterpret_cast<double*>(shared_memory()));
    if (thread_index() == 0) a.sums[tensor] = total;
}

// parts: memory for (tensors, number("blocks")) floats.
template <class Numbers>
void square_sums(const Numbers& number, const Tensors& tensors, float* sums, float* parts) {
    SquareArguments a;
    a.blocks = number("blocks");
    for (size_t first = 0; first < tensors.size(); first += TABLE) {
        const int count = std::min<size_t>(TABLE, tensors.size() - first);
        for (int i = 0; i < count; i++) {
            const Tensor& tensor = tensors[first + i];
            a.start[i] = tensor.start, a.size[i] = tensor.size, a.kind[i] = tensor.kind;
        }
        a.parts = parts + first * a.blocks, a.sums = sums + first;
        launch(square_kernel, a.blocks, count, PASS_THREADS, PASS_THREADS * sizeof(double), a);
    }
}

struct FactorArguments {
    int tensors, numbers;
    double highest;
    const float* squares;
    const double* sums;
    float* factor;
};

__global__ void __launch_bounds__(PASS_THREADS) factor_kernel(const FactorArguments a) {
    double* const shared = reinterpret_cast<double*>(shared_memory());
    double square = 0;
    for (int i = thread_index(); i < a.tensors; i += PASS_THREADS) square += a.squares[i];
    square = block_sum(square, shared);
    if (thread_index() == 0) *a.factor = factor_of(square, a.sums, a.numbers, a.highest);
}

template <class Numbers>
void step_factor(const Numbers& number, const float* squares, const double* sums, float* factor) {
    const FactorArguments a{(int)number("tensors"), (int)number("sums"), number("highest"), squares, sums, factor};
    launch(factor_kernel, 1, 1, PASS_THREADS, PASS_THREADS * sizeof(double), a);
}

struct AdamWArguments {
    float *weights[TABLE], *m[TABLE], *v[TABLE];
    const void* gradient[TABLE];
    void* rounded[TABLE];
    int64_t size[TABLE];
    Kind of_gradient[TABLE], of_rounded[TABLE];
    Settings settings;
    const int32_t* steps;
    const float *factor, *decays;
    int32_t* next;
    int blocks;
};
static_assert(sizeof(AdamWArguments) <= ARGUMENT_BYTES, "arguments of a kernel");

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
    for (int64_t i = (int64_t)block_column() * PASS_THREADS + thread_index(); i < a.size[tensor]; i += a.blocks * PASS_THREADS) {
        float weight = weights[i], of_m = m[i], of_v = v[i];
        update(rule, kept, read(a.gradient[tensor], a.of_gradient[tensor], i) * scale, weight, of_m, of_v);
        weights[i] = weight, m[i] = of_m, v[i] = of_v;
        if (a.of_rounded[tensor] != FLOAT32)
            static_cast<uint16_t*>(a.rounded[tensor])[i] =
                a.of_rounded[tensor] == BFLOAT16 ? two_bfloat16(weight, 0.0f) : two_float16(weight, 0.0f);
    }
}

template <class Numbers>
void adamw(const Numbers& number, const Tensors& tensors, const int32_t* steps, const float* factor, const float* decays,
           int32_t* next) {
    AdamWArguments a{{}, {}, {}, {}, {}, {}, {}, {}, Settings(number), steps, factor, decays, next, (int)number("blocks")};
    const size_t all = tensors.size() / 5;
    for (size_t first = 0; first < all; first += TABLE, a.decays += TABLE) {
        const int count = std::min<size_t>(TABLE, all - first);
        for (int i = 0; i < count; i++) {
            const Tensor* tensor = &tensors[first + i];
            a.weights[i] = (float*)tensor->start, a.size[i] = tensor->size;
            a.gradient[i] = tensor[all].start, a.of_gradient[i] = tensor[all].kind;
            a.m[i] = (float*)tensor[2 * all].start, a.v[i] = (float*)tensor[3 * all].start;
            a.rounded[i] = tensor[4 * all].start, a.of_rounded[i] = tensor[4 * all].kind;
        }
        launch(adamw_kernel, a.blocks, count, PASS_THREADS, sizeof(Rule), a);
    }
}

}  // namespace jseg
