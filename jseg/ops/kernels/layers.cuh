// What layers do around matrix products, on CUDA: layer normalisation; bias, activation, dropout and residual after a
// product, and the gradients of all that. X, Y: number types, as Float32 and BFloat16.
//
// A lane works on four neighbours at a time. Sums over rows are those of slices of the rows, added up in order: the same
// bits in every run.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>

#include "fragments.cuh"

namespace jseg {

constexpr int PASS_WARPS = 8, PASS_THREADS = PASS_WARPS * WARP, PASS_COLUMNS = 4 * WARP;

template <class Number>
struct alignas(4 * sizeof(Number)) Quad {
    Number at[4];
};

// The first `count` of four numbers, the others 0.
template <class T>
__device__ __forceinline__ void load_four(float (&x)[4], const typename T::Number* from, int count, bool aligned) {
    Quad<typename T::Number> four = {};
    if (aligned)
        four = *reinterpret_cast<const Quad<typename T::Number>*>(from);
    else
        for (int e = 0; e < 4; e++)
            if (e < count) four.at[e] = from[e];
    for (int e = 0; e < 4; e++) x[e] = T::value(four.at[e]);
}

template <class T>
__device__ __forceinline__ void store_four(typename T::Number* to, const float (&x)[4], int count, bool aligned) {
    Quad<typename T::Number> four;
    T::store_two(four.at, x[0], x[1]);
    T::store_two(four.at + 2, x[2], x[3]);
    if (aligned)
        *reinterpret_cast<Quad<typename T::Number>*>(to) = four;
    else
        for (int e = 0; e < 4; e++)
            if (e < count) to[e] = four.at[e];
}

__device__ __forceinline__ float warp_sum(float x) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) x += from_lane_xor(x, mask);
    return x;
}

// Calls `visit(column, count)` for the fours of a row that are this lane's.
template <class Visit>
__device__ __forceinline__ void each_four(int width, const Visit& visit) {
    for (int column = 4 * lane_index(); column < width; column += PASS_COLUMNS) visit(column, min(4, width - column));
}

// Where sums over rows go: one or two of each column.
struct RowSums {
    int slices;             // of the rows
    float* parts;           // memory for (slices, number of sums, columns); null = no sums
    float *first, *second;  // (columns,)
};

constexpr int MOST_TILES = 4096;
static __device__ unsigned slices_done[MOST_TILES];  // of each tile of columns; 0 between launches

// Calls `visit(row, column, count, sums)` for the fours of slice `own` of the rows in tile `tile` of PASS_COLUMNS columns,
// four of which are this lane's. The last block of a tile adds the sums of its slices up.
template <int SUMS, class Visit>
__device__ __forceinline__ void each_row(long rows, int columns, int tile, int own, const RowSums& to, const Visit& visit) {
    const int column = tile * PASS_COLUMNS + 4 * lane_index(), count = min(4, columns - column);
    const long slice = (rows + to.slices - 1) / to.slices, first = own * slice, end = min(rows, first + slice);
    float sums[SUMS][4] = {};
    for (long row = first + warp_index(); count > 0 && row < end; row += PASS_WARPS) visit(row, column, count, sums);
    if (to.parts == nullptr) return;
    float* const shared = reinterpret_cast<float*>(shared_memory());  // (SUMS, PASS_WARPS, PASS_COLUMNS)
    for (int s = 0; s < SUMS; s++)
        for (int e = 0; e < 4; e++) shared[(s * PASS_WARPS + warp_index()) * PASS_COLUMNS + 4 * lane_index() + e] = sums[s][e];
    synchronise_block();
    // Calls `add(s, column)` for all sums of this tile.
    const auto each_sum = [&](const auto& add) {
        for (int i = thread_index(); i < SUMS * PASS_COLUMNS; i += PASS_THREADS)
            if (tile * PASS_COLUMNS + i % PASS_COLUMNS < columns) add(i / PASS_COLUMNS, i % PASS_COLUMNS);
    };
    float* const parts = to.parts + tile * PASS_COLUMNS;
    each_sum([&](int s, int i) {
        float sum = 0;
        for (int w = 0; w < PASS_WARPS; w++) sum += shared[(s * PASS_WARPS + w) * PASS_COLUMNS + i];
        parts[((long)own * SUMS + s) * columns + i] = sum;
    });
    if (!is_last_block(&slices_done[tile], to.slices)) return;
    each_sum([&](int s, int i) {
        float sum = 0;
        for (int slice = 0; slice < to.slices; slice++) sum += load_of_any_block(&parts[((long)slice * SUMS + s) * columns + i]);
        (s == 0 ? to.first : to.second)[tile * PASS_COLUMNS + i] = sum;
    });
}

inline int tiles(long count, long tile) { return (count + tile - 1) / tile; }

// Blocks for `each_row`.
inline int column_tiles(int columns) {
    const int count = tiles(columns, PASS_COLUMNS);
    if (count > MOST_TILES) throw std::runtime_error("CUDA kernel of jseg: " + std::to_string(columns) + " columns are too many");
    return count;
}

template <class... Places>
bool in_fours(long columns, const Places*... places) {
    uintptr_t all = 0;
    for (const void* place : {static_cast<const void*>(places)...}) all |= reinterpret_cast<uintptr_t>(place);
    return columns % 4 == 0 && all % 16 == 0;
}

// --- layer normalisation -------------------------------------------------------------------------------------------

template <class X, class Y>
struct NormArguments {
    long rows;
    int width;
    float eps;
    bool aligned;
    const typename X::Number* x;
    const float *weight, *bias;
    float* statistics;  // (rows, 2): mean, inverse of the root
    typename Y::Number* out;
    float* wide;  // the output as float32, too; may be null, as all below but grad_out
    const typename Y::Number* grad_out;
    const float* grad_wide;
    const typename X::Number* added;  // to the gradient of x
    typename X::Number* grad_x;
    typename Y::Number* rounded;  // the same
    RowSums parameters;
    int sum_blocks;
    int group, first;  // of each group of rows, the first ones are normalised, the others stay; a group of 1 is
    bool centred;      // else the mean is left in, and taken for 0

    __device__ bool stays(long row) const { return group > 1 && (int)row % group >= first; }
};

template <class X, class Y, class Numbers>
NormArguments<X, Y> norm_arguments(const Numbers& number) {
    NormArguments<X, Y> a{(long)number("rows"), (int)number("width"), (float)number("eps")};
    a.group = number("group"), a.first = number("first"), a.centred = number("centred");
    return a;
}

// A warp owns a row; it reads it three times, but from memory only once.
template <class X, class Y>
__global__ void __launch_bounds__(PASS_THREADS) norm_kernel(const NormArguments<X, Y> a) {
    const long row = (long)block_column() * PASS_WARPS + warp_index();
    if (row >= a.rows) return;
    const typename X::Number* from = a.x + row * a.width;
    float sum = 0, squares = 0;
    each_four(a.width, [&](int column, int count) {
        float x[4];
        load_four<X>(x, from + column, count, a.aligned);
        for (int e = 0; e < 4; e++) sum += x[e];
    });
    const float mean = a.centred ? warp_sum(sum) / a.width : 0.0f;
    each_four(a.width, [&](int column, int count) {
        float x[4];
        load_four<X>(x, from + column, count, a.aligned);
        for (int e = 0; e < 4; e++) squares += e < count ? (x[e] - mean) * (x[e] - mean) : 0.0f;
    });
    const float inverse = 1 / sqrtf(warp_sum(squares) / a.width + a.eps);
    each_four(a.width, [&](int column, int count) {
        float x[4], weight[4], bias[4];
        load_four<X>(x, from + column, count, a.aligned);
        load_four<Float32>(weight, a.weight + column, count, a.aligned);
        load_four<Float32>(bias, a.bias + column, count, a.aligned);
        for (int e = 0; e < 4; e++) x[e] = a.stays(row) ? x[e] : (x[e] - mean) * inverse * weight[e] + bias[e];
        store_four<Y>(a.out + row * a.width + column, x, count, a.aligned);
        if (a.wide != nullptr) store_four<Float32>(a.wide + row * a.width + column, x, count, a.aligned);
    });
    if (lane_index() == 0) a.statistics[2 * row] = mean, a.statistics[2 * row + 1] = inverse;
}

// The gradient of four outputs, of both types.
template <class X, class Y>
__device__ __forceinline__ void load_gradient(float (&grad)[4], const NormArguments<X, Y>& a, long row, int column, int count) {
    load_four<Y>(grad, a.grad_out + row * a.width + column, count, a.aligned);
    if (a.grad_wide == nullptr) return;
    float wide[4];
    load_four<Float32>(wide, a.grad_wide + row * a.width + column, count, a.aligned);
    for (int e = 0; e < 4; e++) grad[e] += wide[e];
}

// A warp's row of the gradient of the input.
template <class X, class Y>
__device__ __forceinline__ void norm_gradient(const NormArguments<X, Y>& a, long row) {
    if (row >= a.rows) return;
    const float mean = a.statistics[2 * row], inverse = a.statistics[2 * row + 1];
    const auto load = [&](int column, int count, float (&standard)[4], float (&weighted)[4]) {
        float weight[4];
        load_four<X>(standard, a.x + row * a.width + column, count, a.aligned);
        load_gradient(weighted, a, row, column, count);
        load_four<Float32>(weight, a.weight + column, count, a.aligned);
        for (int e = 0; e < 4; e++) standard[e] = (standard[e] - mean) * inverse, weighted[e] *= weight[e];
    };
    float sum = 0, along = 0;
    each_four(a.width, [&](int column, int count) {
        float standard[4], weighted[4];
        load(column, count, standard, weighted);
        for (int e = 0; e < 4; e++) sum += weighted[e], along += weighted[e] * standard[e];
    });
    sum = a.centred ? warp_sum(sum) / a.width : 0.0f, along = warp_sum(along) / a.width;
    each_four(a.width, [&](int column, int count) {
        float standard[4], weighted[4];
        load(column, count, standard, weighted);
        for (int e = 0; e < 4; e++) weighted[e] = (weighted[e] - sum - standard[e] * along) * inverse;
        if (a.stays(row)) load_gradient(weighted, a, row, column, count);
        if (a.added != nullptr) {
            load_four<X>(standard, a.added + row * a.width + column, count, a.aligned);
            for (int e = 0; e < 4; e++) weighted[e] += standard[e];
        }
        store_four<X>(a.grad_x + row * a.width + column, weighted, count, a.aligned);
        if (a.rounded != nullptr) store_four<Y>(a.rounded + row * a.width + column, weighted, count, a.aligned);
    });
}

// The first `sum_blocks` blocks add up the gradients of weight and bias, the others work out that of the input.
template <class X, class Y>
__global__ void __launch_bounds__(PASS_THREADS) norm_gradient_kernel(const NormArguments<X, Y> a) {
    const int block = block_column(), tiles = a.sum_blocks / a.parameters.slices;
    if (block >= a.sum_blocks) return norm_gradient(a, (long)(block - a.sum_blocks) * PASS_WARPS + warp_index());
    each_row<2>(a.rows, a.width, block % tiles, block / tiles, a.parameters, [&](long row, int column, int count, float (&sums)[2][4]) {
        if (a.stays(row)) return;
        const float mean = a.statistics[2 * row], inverse = a.statistics[2 * row + 1];
        float x[4], grad[4];
        load_four<X>(x, a.x + row * a.width + column, count, a.aligned);
        load_gradient(grad, a, row, column, count);
        for (int e = 0; e < 4; e++) sums[0][e] += grad[e] * (x[e] - mean) * inverse, sums[1][e] += grad[e];
    });
}

// wide: the output as float32, too.
template <class X, class Y, class Numbers>
void norm_forward(const Numbers& number, const void* x, const float* weight, const float* bias, void* out, float* statistics,
                  float* wide = nullptr) {
    auto a = norm_arguments<X, Y>(number);
    a.x = (const typename X::Number*)x, a.out = (typename Y::Number*)out;
    a.weight = weight, a.bias = bias, a.statistics = statistics, a.wide = wide;
    a.aligned = in_fours(a.width, x, weight, bias, out, wide);
    launch(norm_kernel<X, Y>, tiles(a.rows, PASS_WARPS), 1, PASS_THREADS, 0, a);
}

// other: by number("input") added to the gradient of x, by number("wide") the gradient of the wide output, else not read.
// second: by number("rounded") the gradient of x as Y, and no more; else the gradient of the weight.
// parts: memory for (number("slices"), 2, width) floats, given with the gradients of weight and bias.
template <class X, class Y, class Numbers>
void norm_backward(const Numbers& number, const void* x, const float* weight, float* statistics, const void* grad_out,
                   const void* other, void* grad_x, void* second = nullptr, float* grad_bias = nullptr, float* parts = nullptr) {
    auto a = norm_arguments<X, Y>(number);
    a.x = (const typename X::Number*)x, a.weight = weight, a.statistics = statistics;
    a.grad_out = (const typename Y::Number*)grad_out, a.grad_x = (typename X::Number*)grad_x;
    a.added = number("input") ? (const typename X::Number*)other : nullptr;
    a.grad_wide = number("wide") ? (const float*)other : nullptr;
    a.rounded = number("rounded") ? (typename Y::Number*)second : nullptr;
    a.aligned = in_fours(a.width, x, weight, grad_out, a.added, a.grad_wide, grad_x, a.rounded);
    a.parameters = {(int)number("slices"), parts, (float*)second, grad_bias};
    if (parts != nullptr) a.sum_blocks = column_tiles(a.width) * a.parameters.slices;
    launch(norm_gradient_kernel<X, Y>, a.sum_blocks + tiles(a.rows, PASS_WARPS), 1, PASS_THREADS,
           parts == nullptr ? 0 : 2 * PASS_THREADS * sizeof(Quad<float>), a);
}

// --- after a product -----------------------------------------------------------------------------------------------

template <class X, class Y>
struct EpilogueArguments {
    long rows;
    int columns;
    RowSums sums;  // of the gradient: that of the bias
    Activation activation;
    uint32_t threshold;  // share that is dropped, times 2^32
    float kept;          // factor on the others
    bool aligned;
    const typename X::Number* x;             // (rows, columns), the product
    const float *bias, *residual;            // null = none
    const uint64_t* seed;                    // null = nothing is dropped
    const typename X::Number* half_residual;  // in its place
    typename Y::Number* out;                 // dropout(activation(x + bias)) + residual
    const typename Y::Number* grad_out;
    const float* other;                      // added to it; null = none
    typename X::Number* grad;                // of the product; may be null
};

__device__ __forceinline__ float quick_gelu_gate(float x) {
    return 1 / (1 + power_of_two(fminf(126.0f, x * (-1.702f * LOG2_E))));
}

// Factors of dropout on four neighbours from number `first` of a tensor on.
__device__ __forceinline__ void draw_four(float (&factors)[4], const uint64_t* seed, long first, uint32_t threshold, float kept) {
    uint64_t key = 0;
    for (int e = 0; e < 4; e++) {
        if (e == 0 || (first + e) % STREAM == 0) key = stream_key(*seed, (first + e) / STREAM);
        const uint32_t bits = random_bits((uint32_t)key, (uint32_t)(key >> 32), (uint32_t)((first + e) % STREAM));
        factors[e] = bits >= threshold ? kept : 0.0f;
    }
}

// Product and bias of four neighbours: what goes into the activation.
template <class X, class Y>
__device__ __forceinline__ void load_before(float (&x)[4], const EpilogueArguments<X, Y>& a, long row, int column, int count) {
    load_four<X>(x, a.x + row * a.columns + column, count, a.aligned);
    if (a.bias == nullptr) return;
    float bias[4];
    load_four<Float32>(bias, a.bias + column, count, a.aligned);
    for (int e = 0; e < 4; e++) x[e] += bias[e];
}

template <class X, class Y>
__global__ void __launch_bounds__(PASS_THREADS) epilogue_kernel(const EpilogueArguments<X, Y> a) {
    each_row<1>(a.rows, a.columns, block_column(), block_row(), a.sums, [&](long row, int column, int count, float (&)[1][4]) {
        const long place = row * a.columns + column;
        float x[4], other[4];
        load_before(x, a, row, column, count);
        for (int e = 0; e < 4; e++) {
            if (a.activation == RELU && x[e] < 0) x[e] = 0;  // NaN stays
            if (a.activation == QUICK_GELU) x[e] *= quick_gelu_gate(x[e]);
        }
        if (a.seed != nullptr) {
            draw_four(other, a.seed, place, a.threshold, a.kept);
            for (int e = 0; e < 4; e++) x[e] *= other[e];
        }
        if (a.residual != nullptr) {
            load_four<Float32>(other, a.residual + place, count, a.aligned);
            for (int e = 0; e < 4; e++) x[e] += other[e];
        }
        if (a.half_residual != nullptr) {
            load_four<X>(other, a.half_residual + place, count, a.aligned);
            for (int e = 0; e < 4; e++) x[e] += other[e];
        }
        store_four<Y>(a.out + place, x, count, a.aligned);
    });
}

template <class X, class Y>
__global__ void __launch_bounds__(PASS_THREADS) epilogue_gradient_kernel(const EpilogueArguments<X, Y> a) {
    each_row<1>(a.rows, a.columns, block_column(), block_row(), a.sums, [&](long row, int column, int count, float (&sums)[1][4]) {
        const long place = row * a.columns + column;
        float grad[4], other[4];
        load_four<Y>(grad, a.grad_out + place, count, a.aligned);
        if (a.other != nullptr) {
            load_four<Float32>(other, a.other + place, count, a.aligned);
            for (int e = 0; e < 4; e++) grad[e] += other[e];
        }
        if (a.activation != NONE) {
            load_before(other, a, row, column, count);
            for (int e = 0; e < 4; e++)
                grad[e] *= a.activation == RELU ? (other[e] > 0 ? 1.0f : 0.0f) : quick_gelu_slope(other[e], quick_gelu_gate(other[e]));
        }
        if (a.seed != nullptr) {
            draw_four(other, a.seed, place, a.threshold, a.kept);
            for (int e = 0; e < 4; e++) grad[e] *= other[e];
        }
        for (int e = 0; e < 4; e++) sums[0][e] += grad[e];
        if (a.grad != nullptr) store_four<X>(a.grad + place, grad, count, a.aligned);
    });
}

template <class X, class Y, class Numbers>
EpilogueArguments<X, Y> epilogue(const Numbers& number, const void* x, const void* bias, const void* seed) {
    EpilogueArguments<X, Y> a{(long)number("rows"), (int)number("columns"), {(int)number("slices")}};
    a.activation = (Activation)(int)number("activation");
    a.x = (const typename X::Number*)x;
    a.bias = number("bias") ? (const float*)bias : nullptr;
    const float rate = number("rate");
    a.threshold = drop_threshold(rate), a.kept = 1 / (1 - rate);
    a.seed = rate > 0 ? (const uint64_t*)seed : nullptr;
    return a;
}

// bias, residual and seed are read where numbers say so ("bias", "residual": 1 as float32, 2 as X, "rate").
template <class X, class Y, class Numbers>
void linear_epilogue(const Numbers& number, const void* x, const void* bias, const void* residual, const void* seed, void* out) {
    EpilogueArguments<X, Y> a = epilogue<X, Y>(number, x, bias, seed);
    a.residual = number("residual") == 1 ? (const float*)residual : nullptr;
    a.half_residual = number("residual") == 2 ? (const typename X::Number*)residual : nullptr;
    a.out = (typename Y::Number*)out;
    a.aligned = in_fours(a.columns, x, a.bias, a.residual, a.half_residual, out);
    launch(epilogue_kernel<X, Y>, column_tiles(a.columns), a.sums.slices, PASS_THREADS, 0, a);
}

// `other` is read where a number says so. Outputs, as numbers of their names ask: `grad` of the product; `grad_bias`, with
// memory for (slices, columns) floats.
template <class X, class Y, class Numbers>
void linear_slopes(const Numbers& number, const void* x, const void* bias, const void* seed, const void* grad_out,
                   const void* other, void* first, void* second = nullptr, void* third = nullptr) {
    EpilogueArguments<X, Y> a = epilogue<X, Y>(number, x, bias, seed);
    void* const outputs[] = {first, second, third};
    const int next = number("grad") ? 1 : 0;
    a.grad_out = (const typename Y::Number*)grad_out;
    a.other = number("other") ? (const float*)other : nullptr;
    a.grad = next ? (typename X::Number*)first : nullptr;
    if (number("grad_bias")) a.sums.parts = (float*)outputs[next + 1], a.sums.first = (float*)outputs[next];
    a.aligned = in_fours(a.columns, x, a.bias, grad_out, a.other, a.grad);
    launch(epilogue_gradient_kernel<X, Y>, column_tiles(a.columns), a.sums.slices, PASS_THREADS,
           PASS_THREADS * sizeof(Quad<float>), a);
}

}  // namespace jseg
