// Attention forward on CUDA: online softmax, see attention.cuh.
#pragma once

#include "attention.cuh"

namespace jseg {

template <class T>
struct ForwardArguments {
    Problem problem;
    Tokens<const typename T::Number> q, k, v, prompt_k, prompt_v;
    Tokens<typename T::Number> out;
    float* log_sums;  // (batch, heads, queries): log2 of the sum of 2^score
};

// One tile of keys: scores become weights, sums go on. `shrink` is what the weighted values so far are multiplied by.
template <class T, int DEPTH, bool DROPOUT>
__device__ __forceinline__ void softmax_tile(const Problem& p,
                                             float (&scores)[Shape<T, DEPTH>::LEFTS][Shape<T, DEPTH>::COLUMNS / 8][4],
                                             float (&largest)[Shape<T, DEPTH>::LEFTS][2],
                                             float (&sums)[Shape<T, DEPTH>::LEFTS][2],
                                             float (&shrink)[Shape<T, DEPTH>::LEFTS][2],
                                             const Stream (&streams)[Shape<T, DEPTH>::LEFTS][2], int first_key) {
    constexpr int LEFTS = Shape<T, DEPTH>::LEFTS, PARTS = Shape<T, DEPTH>::COLUMNS / 8;
#pragma unroll
    for (int m = 0; m < LEFTS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float most = scores[m][0][2 * half];
#pragma unroll
            for (int n = 0; n < PARTS; n++)
                most = fmaxf(most, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
            most = fmaxf(most, from_lane_xor(most, 1));
            most = fmaxf(most, from_lane_xor(most, 2));
            const float now = fmaxf(largest[m][half], most * p.score_scale);
            const float base = now < NEVER * 1e-5f ? 0.0f : now;  // no key so far: weights are to be 0, not 2^(NEVER - NEVER)
            shrink[m][half] = power_of_two(largest[m][half] - base);
            largest[m][half] = now;
            float sum = 0;
#pragma unroll
            for (int n = 0; n < PARTS; n++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    float& weight = scores[m][n][2 * half + c];
                    weight = power_of_two(weight * p.score_scale - base);
                    sum += weight;
                    if constexpr (DROPOUT)
                        weight *= keep_factor(p, streams[m][half], first_key + 8 * n + lane_index() % 4 * 2 + c);
                }
            sums[m][half] = sums[m][half] * shrink[m][half] + sum;  // of this lane's columns
        }
}

template <class T, int DEPTH, Mask MASK, bool DROPOUT>
__global__ void __launch_bounds__(THREADS, (Shape<T, DEPTH>::BLOCKS)) forward_kernel(const ForwardArguments<T> a) {
    typedef Shape<T, DEPTH> Sizes;
    typedef typename T::Number Number;
    constexpr int LEFTS = Sizes::LEFTS, COLUMNS = Sizes::COLUMNS, STRIDE = Sizes::STRIDE;
    const Problem& p = a.problem;
    const int image = block_row() / p.heads, head = block_row() % p.heads;
    const int first = block_column() * Sizes::ROWS, own = first + warp_index() * Sizes::WARP_ROWS;
    const Rows<const Number> queries = rows_of(a.q, p, image, head, p.queries);
    const Rows<const Number> keys = rows_of(a.k, a.prompt_k, p, image, head);
    const Rows<const Number> values = rows_of(a.v, a.prompt_v, p, image, head);
    const int tiles = tiles_of_keys<MASK>(p, first + Sizes::ROWS, COLUMNS);

    Number* const own_tile = reinterpret_cast<Number*>(shared_memory());
    Number* const key_tiles = own_tile + Sizes::OWN;  // two, one being filled while the other is used
    Number* const value_tiles = key_tiles + 2 * Sizes::TILE;
    fetch<T, DEPTH, Sizes::ROWS>(p, own_tile, queries, first);
    fetch<T, DEPTH, COLUMNS>(p, key_tiles, keys, 0);
    fetch<T, DEPTH, COLUMNS>(p, value_tiles, values, 0);
    end_copies();

    Number* const warp_rows = own_tile + warp_index() * Sizes::WARP_ROWS * STRIDE;
    LeftRows<T, DEPTH, LEFTS> query_rows{warp_rows};
    float sums[LEFTS][DEPTH / 8][4] = {}, largest[LEFTS][2], weight_sums[LEFTS][2], shrink[LEFTS][2];
    int marks[LEFTS][2];
    Stream streams[LEFTS][2];
#pragma unroll
    for (int m = 0; m < LEFTS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int query = own + 16 * m + 8 * half + lane_index() / 4;
            largest[m][half] = NEVER;
            weight_sums[m][half] = 0;
            marks[m][half] = mark_of_query<MASK>(p, query);
            if constexpr (DROPOUT) streams[m][half] = stream_of_row(p, block_row(), query);
        }

    for (int tile = 0; tile < tiles; tile++) {
        wait_for_copies<0>();
        synchronise_block();  // this tile has come, and nobody reads the one before any more
        const int stage = tile % 2 * Sizes::TILE, first_key = tile * COLUMNS;
        if (tile + 1 < tiles) {
            fetch<T, DEPTH, COLUMNS>(p, key_tiles + Sizes::TILE - stage, keys, first_key + COLUMNS);
            fetch<T, DEPTH, COLUMNS>(p, value_tiles + Sizes::TILE - stage, values, first_key + COLUMNS);
            end_copies();
        }
        if (own >= p.queries) continue;
        if (tile == 0) query_rows.keep();
        float scores[LEFTS][COLUMNS / 8][4] = {};
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n += 2)
            multiply_rows(&scores[0][n], COLUMNS / 8, query_rows, key_tiles + stage + 8 * n * STRIDE);
        if (needs_mask<MASK>(p, own, Sizes::WARP_ROWS, first_key, COLUMNS))
#pragma unroll
            for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    const int mark = mark_of_key<MASK>(p, first_key + 8 * n + lane_index() % 4 * 2 + c);
#pragma unroll
                    for (int m = 0; m < LEFTS; m++)
#pragma unroll
                        for (int half = 0; half < 2; half++)
                            if (!sees<MASK>(marks[m][half], mark)) scores[m][n][2 * half + c] = NEVER;
                }
        softmax_tile<T, DEPTH, DROPOUT>(p, scores, largest, weight_sums, shrink, streams, first_key);
#pragma unroll
        for (int m = 0; m < LEFTS; m++)
#pragma unroll
            for (int n = 0; n < DEPTH / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) sums[m][n][i] *= shrink[m][i / 2];
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n += 2)
            add_weighted_rows<T, DEPTH, LEFTS>(sums, &scores[0][n], COLUMNS / 8, value_tiles + stage + 8 * n * STRIDE);
    }
    if (own >= p.queries) return;

#pragma unroll
    for (int m = 0; m < LEFTS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int query = own + 16 * m + 8 * half + lane_index() / 4;
            float sum = weight_sums[m][half];
            sum += from_lane_xor(sum, 1);
            sum += from_lane_xor(sum, 2);
            shrink[m][half] = 1 / sum;
            if (lane_index() % 4 == 0 && query < p.queries)
                a.log_sums[(long)block_row() * p.queries + query] = largest[m][half] + binary_logarithm(sum);
        }
    write_rows<T, DEPTH, LEFTS>(p, warp_rows, sums, shrink, rows_of(a.out, p, image, head, p.queries), own);
}

// Host. out: (batch, queries, heads * depth), every element is set, as are `log_sums`.
template <class T, int DEPTH, Mask MASK, bool DROPOUT>
void attention_forward(ForwardArguments<T> a) {
    typedef Shape<T, DEPTH> Sizes;
    Problem& p = a.problem;
    p.aligned = are_aligned(p, a.q, a.k, a.v, a.out);
    if (p.prompts > 0) p.aligned &= are_aligned(p, a.prompt_k, a.prompt_v);
    const int bytes = (Sizes::OWN + 4 * Sizes::TILE) * sizeof(typename T::Number);
    launch(forward_kernel<T, DEPTH, MASK, DROPOUT>, tiles_of(p.queries, Sizes::ROWS), p.batch * p.heads, THREADS, bytes, a);
}

}  // namespace jseg
