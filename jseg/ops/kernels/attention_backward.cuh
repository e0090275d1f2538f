// Gradients of attention on CUDA by recomputation: weights are made again from queries, keys and `log_sums`.
//
// With weight P, dropped weight P * keep and row = sum over keys of P * dP, which is grad_out . out:
// dP = keep * grad_out v^T, dS = P * (dP - row), grad_q = dS k / sqrt(depth), grad_k = dS^T q / sqrt(depth),
// grad_v = (P keep)^T grad_out. Two kernels, one that owns queries and one that owns keys: nothing is added up in memory,
// so every run gives the same bits. The price is that scores and dP are made twice: 7 products where atomic additions or
// partial sums in memory would take 5.
#pragma once

#include "attention.cuh"

namespace jseg {

template <class T>
struct BackwardArguments {
    Problem problem;
    Tokens<const typename T::Number> q, k, v, prompt_k, prompt_v, out, grad_out;
    const float* log_sums;
    float* row_sums;  // (batch, heads, queries): written by the kernel of queries, read by the kernel of keys
    Tokens<typename T::Number> grad_q, grad_k, grad_v, grad_prompt_k, grad_prompt_v;
    Tokens<typename T::Number> grad_prompt_q;  // set to 0: queries of prompts are never used
};

// Scores (16 LEFTS x 16) become weights P, `slopes` (grad_out v^T) become dS; `keep` is the factor on P.
__device__ __forceinline__ void weight_and_slope(const Problem& p, float& weight, float& slope, float log_sum,
                                                 float row_sum, float keep) {
    const float probability = power_of_two(weight * p.score_scale - log_sum);
    slope = probability * (slope * keep - row_sum);
    weight = probability * keep;
}

// x . y of one row, its numbers shared out among the four lanes of the row, which all get the sum.
template <class T, int DEPTH>
__device__ __forceinline__ float dot_of_row(const Problem& p, const typename T::Number* x, const typename T::Number* y) {
    constexpr int AT_ONCE = 16 / sizeof(typename T::Number);
    float sum = 0;
#pragma unroll
    for (int column = lane_index() % 4 * AT_ONCE; column < DEPTH; column += 4 * AT_ONCE) {
        if (p.aligned && column < p.depth) {
            union {
                Chunk chunk;
                typename T::Number numbers[AT_ONCE];
            } of_x, of_y;
            of_x.chunk = *reinterpret_cast<const Chunk*>(x + column);
            of_y.chunk = *reinterpret_cast<const Chunk*>(y + column);
#pragma unroll
            for (int e = 0; e < AT_ONCE; e++) sum += T::value(of_x.numbers[e]) * T::value(of_y.numbers[e]);
        } else {
            for (int e = 0; e < AT_ONCE; e++)
                if (column + e < p.depth) sum += T::value(x[column + e]) * T::value(y[column + e]);
        }
    }
    sum += from_lane_xor(sum, 1);
    return sum + from_lane_xor(sum, 2);
}

template <class T, int DEPTH, Mask MASK, bool DROPOUT>
__global__ void __launch_bounds__(THREADS, (Shape<T, DEPTH>::BLOCKS)) query_gradient_kernel(const BackwardArguments<T> a) {
    typedef Shape<T, DEPTH> Sizes;
    typedef typename T::Number Number;
    constexpr int LEFTS = Sizes::LEFTS, COLUMNS = Sizes::COLUMNS, STRIDE = Sizes::STRIDE;
    const Problem& p = a.problem;
    const int image = block_row() / p.heads, head = block_row() % p.heads;
    const int first = block_column() * Sizes::ROWS, own = first + warp_index() * Sizes::WARP_ROWS;
    const Rows<const Number> queries = rows_of(a.q, p, image, head, p.queries);
    const Rows<const Number> grads = rows_of(a.grad_out, p, image, head, p.queries);
    const Rows<const Number> keys = rows_of(a.k, a.prompt_k, p, image, head);
    const Rows<const Number> values = rows_of(a.v, a.prompt_v, p, image, head);
    const int tiles = tiles_of_keys<MASK>(p, first + Sizes::ROWS, COLUMNS);

    Number* const own_queries = reinterpret_cast<Number*>(shared_memory());
    Number* const own_grads = own_queries + Sizes::OWN;
    Number* const key_tiles = own_grads + Sizes::OWN;
    Number* const value_tiles = key_tiles + 2 * Sizes::TILE;
    fetch<T, DEPTH, Sizes::ROWS>(p, own_queries, queries, first);
    fetch<T, DEPTH, Sizes::ROWS>(p, own_grads, grads, first);
    fetch<T, DEPTH, COLUMNS>(p, key_tiles, keys, 0);
    fetch<T, DEPTH, COLUMNS>(p, value_tiles, values, 0);
    end_copies();

    Number* const warp_rows = own_queries + warp_index() * Sizes::WARP_ROWS * STRIDE;
    LeftRows<T, DEPTH, LEFTS> query_rows{warp_rows}, grad_rows{own_grads + warp_index() * Sizes::WARP_ROWS * STRIDE};
    float sums[LEFTS][DEPTH / 8][4] = {}, log_sums[LEFTS][2], row_sums[LEFTS][2], factors[LEFTS][2];
    int marks[LEFTS][2];
    Stream streams[LEFTS][2];
#pragma unroll
    for (int m = 0; m < LEFTS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int query = own + 16 * m + 8 * half + lane_index() / 4, inside = min(query, p.queries - 1);
            const long place = (long)block_row() * p.queries + inside;
            const Number* out = a.out.at(image, head, p.depth) + inside * a.out.row;
            row_sums[m][half] = dot_of_row<T, DEPTH>(p, grads.at(inside), out);
            log_sums[m][half] = a.log_sums[place];
            if (query < p.queries && lane_index() % 4 == 0) a.row_sums[place] = row_sums[m][half];
            factors[m][half] = p.gradient_scale;
            marks[m][half] = mark_of_query<MASK>(p, query);
            if constexpr (DROPOUT) streams[m][half] = stream_of_row(p, block_row(), query);
        }
    if (p.frozen) {  // the sums of rows were all that is wanted
        wait_for_copies<0>();
        return;
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
        if (tile == 0) {
            query_rows.keep();
            grad_rows.keep();
        }
        const bool masked = needs_mask<MASK>(p, own, Sizes::WARP_ROWS, first_key, COLUMNS);
#pragma unroll 1  // one body: more at once would not fit into the registers
        for (int part = 0; part < COLUMNS; part += 16) {
            float weights[LEFTS][2][4] = {}, slopes[LEFTS][2][4] = {};
            multiply_rows(&weights[0][0], 2, query_rows, key_tiles + stage + part * STRIDE);
            multiply_rows(&slopes[0][0], 2, grad_rows, value_tiles + stage + part * STRIDE);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = first_key + part + i / 2 * 8 + lane_index() % 4 * 2 + i % 2;
                const int mark = masked ? mark_of_key<MASK>(p, key) : 0;
#pragma unroll
                for (int m = 0; m < LEFTS; m++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        float &weight = weights[m][i / 2][2 * half + i % 2], &slope = slopes[m][i / 2][2 * half + i % 2];
                        if (masked && !sees<MASK>(marks[m][half], mark)) weight = NEVER;
                        const float keep = DROPOUT ? keep_factor(p, streams[m][half], key) : 1.0f;
                        weight_and_slope(p, weight, slope, log_sums[m][half], row_sums[m][half], keep);
                    }
            }
            add_weighted_rows<T, DEPTH, LEFTS>(sums, &slopes[0][0], 2, key_tiles + stage + part * STRIDE);
        }
    }
    if (own >= p.queries) return;
    write_rows<T, DEPTH, LEFTS>(p, warp_rows, sums, factors, rows_of(a.grad_q, p, image, head, p.queries), own);
}

// What the kernel of keys needs of the queries of a tile, two tiles in turn.
template <int COLUMNS, bool DROPOUT>
struct Statistics {
    float log_sums[2][COLUMNS], row_sums[2][COLUMNS];
    Stream streams[DROPOUT ? 2 : 1][DROPOUT ? COLUMNS : 1];

    template <class T>
    __device__ __forceinline__ void fetch(const BackwardArguments<T>& a, int stage, int first) {
        const Problem& p = a.problem;
        const int i = thread_index(), query = first + i;
        if (i >= COLUMNS) return;
        const bool inside = query < p.queries;  // elsewhere 0, as queries and grad_out: nothing is added then
        const long place = (long)block_row() * p.queries + (inside ? query : 0);
        copy_later<4>(&log_sums[stage][i], a.log_sums + place, inside);
        copy_later<4>(&row_sums[stage][i], a.row_sums + place, inside);
        if constexpr (DROPOUT) streams[stage][i] = stream_of_row(p, block_row(), query);
    }
};

template <class T, int DEPTH, Mask MASK, bool DROPOUT>
__global__ void __launch_bounds__(THREADS, (Shape<T, DEPTH>::BLOCKS)) key_gradient_kernel(const BackwardArguments<T> a) {
    typedef Shape<T, DEPTH> Sizes;
    typedef typename T::Number Number;
    constexpr int LEFTS = Sizes::LEFTS, COLUMNS = Sizes::COLUMNS, STRIDE = Sizes::STRIDE;
    const Problem& p = a.problem;
    const int image = block_row() / p.heads, head = block_row() % p.heads;
    const int first = (p.first_block + block_column()) * Sizes::ROWS, own = first + warp_index() * Sizes::WARP_ROWS;
    const Rows<const Number> queries = rows_of(a.q, p, image, head, p.queries);
    const Rows<const Number> grads = rows_of(a.grad_out, p, image, head, p.queries);
    const Rows<const Number> keys = rows_of(a.k, a.prompt_k, p, image, head);
    const Rows<const Number> values = rows_of(a.v, a.prompt_v, p, image, head);
    const int tiles = (p.queries + COLUMNS - 1) / COLUMNS;
    const int start = MASK == CAUSAL ? min(first / COLUMNS, tiles - 1) : 0;  // queries before the keys see none of them

    Number* const own_keys = reinterpret_cast<Number*>(shared_memory());
    Number* const own_values = own_keys + Sizes::OWN;
    Number* const query_tiles = own_values + Sizes::OWN;
    Number* const grad_tiles = query_tiles + 2 * Sizes::TILE;
    Statistics<COLUMNS, DROPOUT>& statistics = *reinterpret_cast<Statistics<COLUMNS, DROPOUT>*>(grad_tiles + 2 * Sizes::TILE);
    const auto fetch_tile = [&](int tile) {
        const int stage = tile % 2;
        fetch<T, DEPTH, COLUMNS>(p, query_tiles + stage * Sizes::TILE, queries, tile * COLUMNS);
        fetch<T, DEPTH, COLUMNS>(p, grad_tiles + stage * Sizes::TILE, grads, tile * COLUMNS);
        statistics.fetch(a, stage, tile * COLUMNS);
        end_copies();
    };
    fetch<T, DEPTH, Sizes::ROWS>(p, own_keys, keys, first);
    fetch<T, DEPTH, Sizes::ROWS>(p, own_values, values, first);
    fetch_tile(start);

    Number* const key_rows = own_keys + warp_index() * Sizes::WARP_ROWS * STRIDE;
    Number* const value_rows = own_values + warp_index() * Sizes::WARP_ROWS * STRIDE;
    LeftRows<T, DEPTH, LEFTS> left_keys{key_rows};
    LeftRows<T, DEPTH, LEFTS, T::KEEP_LEFT && DEPTH <= 32> left_values{value_rows};
    float grad_keys[LEFTS][DEPTH / 8][4] = {}, grad_values[LEFTS][DEPTH / 8][4] = {};
    float key_factors[LEFTS][2], value_factors[LEFTS][2];
    int marks[LEFTS][2];
#pragma unroll
    for (int m = 0; m < LEFTS; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            key_factors[m][half] = p.gradient_scale;
            value_factors[m][half] = 1;
            marks[m][half] = mark_of_key<MASK>(p, own + 16 * m + 8 * half + lane_index() / 4);
        }

    for (int tile = start; tile < tiles; tile++) {
        wait_for_copies<0>();
        synchronise_block();  // this tile has come, and nobody reads the one before any more
        if (tile + 1 < tiles) fetch_tile(tile + 1);
        if (own >= keys.total) continue;
        if (tile == start) {
            left_keys.keep();
            left_values.keep();
        }
        const Number* const tile_queries = query_tiles + tile % 2 * Sizes::TILE;
        const Number* const tile_grads = grad_tiles + tile % 2 * Sizes::TILE;
        const bool masked = needs_mask<MASK>(p, tile * COLUMNS, COLUMNS, own, Sizes::WARP_ROWS);
#pragma unroll 1  // one body: more at once would not fit into the registers
        for (int part = 0; part < COLUMNS; part += 16) {
            float weights[LEFTS][2][4] = {}, slopes[LEFTS][2][4] = {};
            multiply_rows(&weights[0][0], 2, left_keys, tile_queries + part * STRIDE);
            multiply_rows(&slopes[0][0], 2, left_values, tile_grads + part * STRIDE);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int column = part + i / 2 * 8 + lane_index() % 4 * 2 + i % 2;
                const int mark = masked ? mark_of_query<MASK>(p, tile * COLUMNS + column) : 0;
                const float log_sum = statistics.log_sums[tile % 2][column], row_sum = statistics.row_sums[tile % 2][column];
#pragma unroll
                for (int m = 0; m < LEFTS; m++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        float &weight = weights[m][i / 2][2 * half + i % 2], &slope = slopes[m][i / 2][2 * half + i % 2];
                        if (masked && !sees<MASK>(mark, marks[m][half])) weight = NEVER;
                        float keep = 1;
                        if constexpr (DROPOUT)
                            keep = keep_factor(p, statistics.streams[tile % 2][column], own + 16 * m + 8 * half + lane_index() / 4);
                        weight_and_slope(p, weight, slope, log_sum, row_sum, keep);
                    }
            }
            add_weighted_rows<T, DEPTH, LEFTS>(grad_values, &weights[0][0], 2, tile_grads + part * STRIDE);
            add_weighted_rows<T, DEPTH, LEFTS>(grad_keys, &slopes[0][0], 2, tile_queries + part * STRIDE);
        }
    }
    if (own >= keys.total) return;
    write_rows<T, DEPTH, LEFTS>(p, key_rows, grad_keys, key_factors, rows_of(a.grad_k, a.grad_prompt_k, p, image, head), own);
    write_rows<T, DEPTH, LEFTS>(p, value_rows, grad_values, value_factors, rows_of(a.grad_v, a.grad_prompt_v, p, image, head), own);
    for (int i = lane_index(); p.prompts > 0 && i < Sizes::WARP_ROWS * p.depth; i += WARP) {
        const int prompt = own + i / p.depth - p.keys;
        if (prompt >= 0 && prompt < p.prompts)
            a.grad_prompt_q.at(image, head, p.depth)[prompt * a.grad_prompt_q.row + i % p.depth] = 0;
    }
}

// Host. Gradients of everything that `attention_forward` read; every element of them and of `row_sums` is set. With
// `frozen`, those of prompts alone: what the others hold then means nothing.
template <class T, int DEPTH, Mask MASK, bool DROPOUT>
void attention_backward(BackwardArguments<T> a) {
    typedef Shape<T, DEPTH> Sizes;
    Problem& p = a.problem;
    p.aligned = are_aligned(p, a.q, a.k, a.v, a.out, a.grad_out, a.grad_q, a.grad_k, a.grad_v);
    if (p.prompts > 0) p.aligned &= are_aligned(p, a.prompt_k, a.prompt_v, a.grad_prompt_k, a.grad_prompt_v);
    const int bytes = (2 * Sizes::OWN + 4 * Sizes::TILE) * sizeof(typename T::Number), pairs = p.batch * p.heads;
    launch(query_gradient_kernel<T, DEPTH, MASK, DROPOUT>, tiles_of(p.queries, Sizes::ROWS), pairs, THREADS, bytes, a);
    p.first_block = p.frozen ? p.keys / Sizes::ROWS : 0;
    launch(key_gradient_kernel<T, DEPTH, MASK, DROPOUT>, tiles_of(p.keys + p.prompts, Sizes::ROWS) - p.first_block, pairs, THREADS,
           bytes + (int)sizeof(Statistics<Sizes::COLUMNS, DROPOUT>), a);
}

}  // namespace jseg
