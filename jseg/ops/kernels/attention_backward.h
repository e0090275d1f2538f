// Gradients of attention.h by recomputation: weights are made again from the queries, keys and `log_sums`.
//
// With weight P, dropped weight P * keep, and row = sum over keys of P * dP (which is grad_out . out):
// dP = keep * grad_out v^T, dS = P * (dP - row), grad_q = scale * dS k, grad_k = scale * dS^T q, grad_v = (P keep)^T grad_out.
#pragma once

#include "attention.h"

namespace jseg {

struct Gradients {
    Output q, k, v, prompt_k, prompt_v;
};

constexpr long BACKWARD_KEYS = 252, BACKWARD_QUERIES = 96;  // two score matrices of 96 KB

// What one head's backward pass works in.
struct Workspace {
    long stride, depth_columns;
    Buffer rows, queries, grads, packed_k, packed_v, keys, packed_q, packed_grad, weights, slopes, sum_k, sum_v;
    explicit Workspace(long depth)
        : stride(rounded_up(BACKWARD_KEYS, TILE_COLUMNS) + LANES),
          depth_columns(rounded_up(depth, TILE_COLUMNS)),
          rows(new_buffer(BACKWARD_KEYS * depth)),
          queries(new_buffer(BACKWARD_QUERIES * depth)),
          grads(new_buffer(BACKWARD_QUERIES * depth)),
          packed_k(new_buffer(stride * depth)),
          packed_v(new_buffer(stride * depth)),
          keys(new_buffer(stride * depth_columns)),
          packed_q(new_buffer(BACKWARD_QUERIES * depth_columns)),
          packed_grad(new_buffer(BACKWARD_QUERIES * depth_columns)),
          weights(new_buffer(BACKWARD_QUERIES * stride)),
          slopes(new_buffer(BACKWARD_QUERIES * stride)),
          sum_k(new_buffer(BACKWARD_KEYS * depth_columns)),
          sum_v(new_buffer(BACKWARD_KEYS * depth_columns)) {}
};

// to (rows, width) += a (rows, depth) times panels (depth, width); `to` has row stride `to_stride`.
template <Side SIDE>
static inline void accumulate(const float* a, long a_stride, const float* panels, long rows, long depth, long width,
                              float* to, long to_stride) {
    for (long column = 0; column < width; column += TILE_COLUMNS, panels += depth * TILE_COLUMNS)
        for (long row = 0; row < rows; row += TILE_ROWS) {
            const long height = std::min<long>(TILE_ROWS, rows - row);
            Sums sums;
            tile<SIDE>(height, SIDE == ROWS ? a + row * a_stride : a + row, a_stride, panels, depth, sums.values);
            for (long r = 0; r < height; r++) {
                float* sum = to + (row + r) * to_stride + column;
                const long of_left = std::min<long>(width - column, LANES), of_right = width - column - of_left;
                store_some(sum, load_some(sum, of_left) + sums.left(r), of_left);
                if (of_right <= 0) continue;
                const long lanes = std::min<long>(of_right, LANES);
                store_some(sum + LANES, load_some(sum + LANES, lanes) + sums.right(r), lanes);
            }
        }
}

// Scores in `weights` become (dropped) weights, products of gradients and values in `slopes` become dS.
static inline void weights_and_slopes(const Problem& p, Workspace& work, long rows, long columns, long image, long head,
                                      long query, long first_key, const float* log_sums, const float* row_sums) {
    for (long r = 0; r < rows; r++) {
        float* weights = work.weights.get() + r * work.stride;
        float* slopes = work.slopes.get() + r * work.stride;
        const float log_sum = log_sums[query + r], row_sum = row_sums[query + r];
        if (p.dropout > 0) {
            const Dropped dropped(p, image, head, query + r);
            for (long c = 0; c < columns; c += LANES) {
                const Vector weight = exp2_of(load(weights + c) - log_sum), keep = dropped.factors(first_key + c);
                store(slopes + c, weight * (load(slopes + c) * keep - row_sum));
                store(weights + c, weight * keep);
            }
        } else {
            for (long c = 0; c < columns; c += LANES) {
                const Vector weight = exp2_of(load(weights + c) - log_sum);
                store(slopes + c, weight * (load(slopes + c) - row_sum));
                store(weights + c, weight);
            }
        }
    }
}

// All dense queries of one head against a block of keys.
static inline void backward_block(const Problem& p, Workspace& work, Input q, Input grad_out, Output grad_q,
                                  const float* log_sums, const float* row_sums, long image, long head, long first,
                                  long count) {
    const long depth = p.depth, columns = rounded_up(count, TILE_COLUMNS);
    const long start = p.causal ? first / BACKWARD_QUERIES * BACKWARD_QUERIES : 0;
    for (long query = start; query < p.queries; query += BACKWARD_QUERIES) {
        const long height = std::min(BACKWARD_QUERIES, p.queries - query);
        gather(q, image, head, query, height, depth, work.queries.get());
        pack_rows(work.queries.get(), depth, height, depth, work.packed_q.get(), p.scale());
        for (long i = 0; i < height * depth; i++) work.queries.get()[i] *= p.scale() * LOG2_E;
        gather(grad_out, image, head, query, height, depth, work.grads.get());
        pack_rows(work.grads.get(), depth, height, depth, work.packed_grad.get());
        scores_of(work.queries.get(), depth, work.packed_k.get(), height, count, depth, work.weights.get(), work.stride, true);
        scores_of(work.grads.get(), depth, work.packed_v.get(), height, count, depth, work.slopes.get(), work.stride, false);
        if (p.causal) hide_later_keys(work.weights.get(), work.stride, height, count, query, first);
        weights_and_slopes(p, work, height, columns, image, head, query, first, log_sums, row_sums);
        if (!p.frozen)
            accumulate<ROWS>(work.slopes.get(), work.stride, work.keys.get(), height, count, depth,
                             grad_q.at(image, query, head, depth), grad_q.row);
        accumulate<COLUMNS>(work.slopes.get(), work.stride, work.packed_q.get(), count, height, depth, work.sum_k.get(),
                            work.depth_columns);
        accumulate<COLUMNS>(work.weights.get(), work.stride, work.packed_grad.get(), count, height, depth,
                            work.sum_v.get(), work.depth_columns);
    }
}

// One pair (query, key) outside the dense part: the same formulae, added to gradients that are set already.
static inline void backward_pair(const Problem& p, Input q, Input k, Input v, Input grad_out, const Gradients& to,
                                 float log_sum, float row_sum, long image, long head, long query, long key) {
    const long depth = p.depth;
    const float *of_query = q.at(image, query, head, depth), *of_key = k.at(image, key, head, depth);
    const float* grad = grad_out.at(image, query, head, depth);
    const float weight = std::exp2(dot(of_query, of_key, depth) * p.scale() * LOG2_E - log_sum);
    const float slope = weight * (dot(grad, v.at(image, key, head, depth), depth) - row_sum) * p.scale();
    add(to.q.at(image, query, head, depth), of_key, slope, depth);
    add(to.k.at(image, key, head, depth), of_query, slope, depth);
    add(to.v.at(image, key, head, depth), grad, weight, depth);
}

static inline void backward_head(const Problem& p, const std::vector<long>& region, Input q, Input k, Input v,
                                 Input prompt_k, Input prompt_v, Input out, Input grad_out, const float* log_sums,
                                 const Gradients& to, long image, long head) {
    const long depth = p.depth, all = p.queries + p.regions();
    Workspace work(depth);
    std::vector<float> row_sums(all);
    for (long query = 0; query < all; query++) {
        row_sums[query] = dot(grad_out.at(image, query, head, depth), out.at(image, query, head, depth), depth);
        if (!p.frozen) std::fill_n(to.q.at(image, query, head, depth), depth, 0.0f);
    }
    for (long first = p.frozen ? p.keys : 0; first < p.all_keys(); first += BACKWARD_KEYS) {
        const long count = std::min(BACKWARD_KEYS, p.all_keys() - first);
        gather_keys(p, k, prompt_k, image, head, first, count, work.rows.get());
        pack_columns(work.rows.get(), depth, depth, count, work.packed_k.get());
        pack_rows(work.rows.get(), depth, count, depth, work.keys.get(), p.scale());
        gather_keys(p, v, prompt_v, image, head, first, count, work.rows.get());
        pack_columns(work.rows.get(), depth, depth, count, work.packed_v.get());
        std::fill_n(work.sum_k.get(), count * work.depth_columns, 0.0f);
        std::fill_n(work.sum_v.get(), count * work.depth_columns, 0.0f);
        backward_block(p, work, q, grad_out, to.q, log_sums, row_sums.data(), image, head, first, count);
        for (long i = 0; i < count; i++) {
            const long key = first + i;
            const bool prompt = key >= p.keys;
            std::copy_n(work.sum_k.get() + i * work.depth_columns, depth,
                        prompt ? to.prompt_k.at(image, key - p.keys, head, depth) : to.k.at(image, key, head, depth));
            std::copy_n(work.sum_v.get() + i * work.depth_columns, depth,
                        prompt ? to.prompt_v.at(image, key - p.keys, head, depth) : to.v.at(image, key, head, depth));
        }
    }
    if (p.frozen) return;
    for (long token = p.queries; token < all; token++) {
        std::fill_n(to.k.at(image, token, head, depth), depth, 0.0f);
        std::fill_n(to.v.at(image, token, head, depth), depth, 0.0f);
    }
    const auto pair = [&](long query, long key) {
        backward_pair(p, q, k, v, grad_out, to, log_sums[query], row_sums[query], image, head, query, key);
    };
    for (long query = 0; query < p.queries; query++)
        if (region[query] >= 0) pair(query, p.queries + region[query]);
    for (long own = 0; own < p.regions(); own++)
        each_key_of_region(p, own, [&](long key) { pair(p.queries + own, key); });
}

// Gradients of everything that `attention_forward` reads; every element of `to` is written. With `frozen`, of prompts only.
static inline void attention_backward(const Problem& p, Input q, Input k, Input v, Input prompt_k, Input prompt_v,
                                      Input out, Input grad_out, const float* log_sums, const Gradients& to) {
    const std::vector<long> region = region_of_query(p);
    const long all = p.queries + p.regions();
#pragma omp parallel for schedule(dynamic, 1)
    for (long pair = 0; pair < p.batch * p.heads; pair++)
        backward_head(p, region, q, k, v, prompt_k, prompt_v, out, grad_out, log_sums + pair * all, to,
                      pair / p.heads, pair % p.heads);
}

// Gradients of `joint_forward`, those of `projected` not where they are frozen.
template <class Numbers>
static inline void joint_backward(const Numbers& number, const float* projected, const float* prompts, const float* out,
                                  const float* log_sums, const float* grad_out, float* grad_projected,
                                  float* grad_prompts) {
    const Joint x(number, projected, prompts);
    const long width = x.width, row = 3 * width;
    // queries of prompts are never used: their gradient is 0
    for (long i = 0; i < x.p.batch * x.p.prompts; i++) std::fill_n(grad_prompts + i * row, width, 0.0f);
    if (x.p.prompts == 0) grad_prompts[0] = 0;
    const auto of_tokens = [=](long part) { return Output{grad_projected + part * width, x.image, row}; };
    const auto of_prompts = [=](long part) { return Output{grad_prompts + part * width, x.prompt_image, row}; };
    attention_backward(x.p, x.q, x.k, x.v, x.prompt_k, x.prompt_v, Input{out, x.image / 3, width},
                       Input{grad_out, x.image / 3, width}, log_sums,
                       Gradients{of_tokens(0), of_tokens(1), of_tokens(2), of_prompts(1), of_prompts(2)});
}

// Gradients of `cross_forward`.
template <class Numbers>
static inline void cross_backward(const Numbers& number, const float* q, const float* k, const float* v, const void* seed,
                                  const float* out, const float* log_sums, const float* grad_out, float* grad_q,
                                  float* grad_k, float* grad_v) {
    const Cross x(number, q, k, v, seed);
    const long of_queries = x.q.batch, of_keys = x.k.batch;
    attention_backward(x.p, x.q, x.k, x.v, x.k, x.v, Input{out, of_queries, x.width}, Input{grad_out, of_queries, x.width},
                       log_sums, Gradients{{grad_q, of_queries, x.width}, {grad_k, of_keys, x.width},
                                           {grad_v, of_keys, x.width}, {}, {}});
}

}  // namespace jseg
