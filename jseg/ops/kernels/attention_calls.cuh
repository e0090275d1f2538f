// From the tensors of jseg/ops/attention.py to the kernels: sizes by name, tensors by their start.
#pragma once

#include <algorithm>
#include <cmath>

#include "attention_backward.cuh"
#include "attention_forward.cuh"

namespace jseg {

// `number(name)` gives a size.
template <class Numbers>
Problem problem_of(const Numbers& number, const char* queries, const char* keys) {
    Problem p;
    p.batch = number("batch"), p.heads = number("heads"), p.depth = number("depth");
    p.queries = number(queries), p.keys = number(keys);
    p.gradient_scale = 1 / std::sqrt((float)p.depth);
    p.score_scale = 1.44269504f * p.gradient_scale;
    return p;
}

// q, k and v side by side in `projected` (batch, tokens, 3 * width); keys and values of prompts likewise, `shared` by
// the images or not.
template <class T, Mask MASK, class Numbers, class Arguments>
void set_joint(const Numbers& number, const void* projected, const void* prompts, Arguments& a) {
    typedef typename T::Number Number;
    Problem& p = a.problem = problem_of(number, "tokens", "tokens");
    p.prompts = number("prompts");
    if (MASK == REGIONS) {
        p.leading = number("leading"), p.columns = number("columns");
        const int region_rows = number("region_rows"), region_columns = number("region_columns");
        if (region_rows * region_columns > 0) {
            p.region_rows = region_rows, p.region_columns = region_columns;
            p.block_rows = (int)number("rows") / region_rows, p.block_columns = p.columns / region_columns;
        }
        p.dense = p.queries - region_rows * region_columns;
    }
    const long width = p.heads * p.depth, row = 3 * width, image = p.queries * row;
    const long prompt_image = number("shared") ? 0 : p.prompts * row;
    const Number *of_tokens = (const Number*)projected, *of_prompts = (const Number*)prompts;
    a.q = {of_tokens, image, row}, a.k = {of_tokens + width, image, row}, a.v = {of_tokens + 2 * width, image, row};
    a.prompt_k = {of_prompts + width, prompt_image, row}, a.prompt_v = {of_prompts + 2 * width, prompt_image, row};
}

template <class T, int DEPTH, Mask MASK, class Numbers>
void joint_forward(const Numbers& number, const void* projected, const void* prompts, void* out, float* log_sums) {
    ForwardArguments<T> a;
    set_joint<T, MASK>(number, projected, prompts, a);
    const long width = a.problem.heads * a.problem.depth;
    a.out = {(typename T::Number*)out, a.problem.queries * width, width};
    a.log_sums = log_sums;
    attention_forward<T, DEPTH, MASK, false>(a);
}

template <class T, int DEPTH, Mask MASK, class Numbers>
void joint_backward(const Numbers& number, const void* projected, const void* prompts, const void* out,
                    const float* log_sums, const void* grad_out, void* grad_projected, void* grad_prompts, float* row_sums) {
    typedef typename T::Number Number;
    BackwardArguments<T> a;
    set_joint<T, MASK>(number, projected, prompts, a);
    a.problem.frozen = number("frozen");
    const long width = a.problem.heads * a.problem.depth, row = 3 * width, image = a.q.image, prompt_image = a.prompt_k.image;
    a.out = {(const Number*)out, image / 3, width}, a.grad_out = {(const Number*)grad_out, image / 3, width};
    Number *of_tokens = (Number*)grad_projected, *of_prompts = (Number*)grad_prompts;
    a.grad_q = {of_tokens, image, row}, a.grad_k = {of_tokens + width, image, row};
    a.grad_v = {of_tokens + 2 * width, image, row}, a.grad_prompt_q = {of_prompts, prompt_image, row};
    a.grad_prompt_k = {of_prompts + width, prompt_image, row}, a.grad_prompt_v = {of_prompts + 2 * width, prompt_image, row};
    a.log_sums = log_sums, a.row_sums = row_sums;
    attention_backward<T, DEPTH, MASK, false>(a);
}

// Tensors q (batch, queries, width), k and v (batch, keys, width).
template <class T, class Numbers, class Arguments>
void set_cross(const Numbers& number, const void* q, const void* k, const void* v, const float* seed, Arguments& a) {
    typedef typename T::Number Number;
    Problem& p = a.problem = problem_of(number, "queries", "keys");
    const float dropout = number("dropout");
    p.threshold = drop_threshold(dropout);
    p.kept = 1 / (1 - dropout);
    p.seed = seed;
    const long width = p.heads * p.depth, of_queries = p.queries * width, of_keys = p.keys * width;
    a.q = {(const Number*)q, of_queries, width}, a.k = {(const Number*)k, of_keys, width};
    a.v = {(const Number*)v, of_keys, width};
    a.prompt_k = a.prompt_v = {a.k.start, 0, 0};  // none
}

template <class T, int DEPTH, bool DROPOUT, class Numbers>
void cross_forward(const Numbers& number, const void* q, const void* k, const void* v, const float* seed, void* out,
                   float* log_sums) {
    ForwardArguments<T> a;
    set_cross<T>(number, q, k, v, seed, a);
    a.out = {(typename T::Number*)out, a.q.image, a.q.row};
    a.log_sums = log_sums;
    attention_forward<T, DEPTH, FULL, DROPOUT>(a);
}

template <class T, int DEPTH, bool DROPOUT, class Numbers>
void cross_backward(const Numbers& number, const void* q, const void* k, const void* v, const float* seed, const void* out,
                    const float* log_sums, const void* grad_out, void* grad_q, void* grad_k, void* grad_v, float* row_sums) {
    typedef typename T::Number Number;
    BackwardArguments<T> a;
    set_cross<T>(number, q, k, v, seed, a);
    a.out = {(const Number*)out, a.q.image, a.q.row}, a.grad_out = {(const Number*)grad_out, a.q.image, a.q.row};
    a.grad_q = {(Number*)grad_q, a.q.image, a.q.row}, a.grad_k = {(Number*)grad_k, a.k.image, a.k.row};
    a.grad_v = {(Number*)grad_v, a.v.image, a.v.row};
    a.grad_prompt_k = a.grad_prompt_v = a.grad_prompt_q = {a.grad_k.start, 0, 0};
    a.log_sums = log_sums, a.row_sums = row_sums;
    attention_backward<T, DEPTH, FULL, DROPOUT>(a);
}

}  // namespace jseg
