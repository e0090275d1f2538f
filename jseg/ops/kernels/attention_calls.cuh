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

// Which numbers say how many queries and keys there are, and how many numbers next to each other a token of them has.
struct Sides {
    const char *queries, *keys;
    int parts;  // times the width
};
constexpr Sides APART = {"queries", "keys", 1}, FORTH = {"queries", "keys", 3}, BACK = {"keys", "queries", 3};

// q (batch, queries, parts * width), k and v (batch, keys, parts * width): of their rows, the first `width` numbers.
template <class T, class Numbers, class Arguments>
void set_cross(const Numbers& number, Sides sides, const void* q, const void* k, const void* v, const void* seed, Arguments& a) {
    typedef typename T::Number Number;
    Problem& p = a.problem = problem_of(number, sides.queries, sides.keys);
    const float dropout = number("dropout");
    p.threshold = drop_threshold(dropout);
    p.kept = 1 / (1 - dropout);
    p.seed = (const uint64_t*)seed;
    const long row = sides.parts * p.heads * p.depth, of_queries = p.queries * row, of_keys = p.keys * row;
    a.q = {(const Number*)q, of_queries, row}, a.k = {(const Number*)k, of_keys, row};
    a.v = {(const Number*)v, of_keys, row};
    a.prompt_k = a.prompt_v = {a.k.start, 0, 0};  // none
}

template <class T, int DEPTH, bool DROPOUT, class Numbers>
void forward_of(const Numbers& number, Sides sides, const void* q, const void* k, const void* v, const void* seed, void* out,
                float* log_sums) {
    ForwardArguments<T> a;
    set_cross<T>(number, sides, q, k, v, seed, a);
    const long width = a.problem.heads * a.problem.depth;
    a.out = {(typename T::Number*)out, a.problem.queries * width, width};
    a.log_sums = log_sums;
    attention_forward<T, DEPTH, FULL, DROPOUT>(a);
}

template <class T, int DEPTH, bool DROPOUT, class Numbers>
void backward_of(const Numbers& number, Sides sides, const void* q, const void* k, const void* v, const void* seed,
                 const void* out, const float* log_sums, const void* grad_out, void* grad_q, void* grad_k, void* grad_v,
                 float* row_sums) {
    typedef typename T::Number Number;
    BackwardArguments<T> a;
    set_cross<T>(number, sides, q, k, v, seed, a);
    const long width = a.problem.heads * a.problem.depth, image = a.problem.queries * width;
    a.out = {(const Number*)out, image, width}, a.grad_out = {(const Number*)grad_out, image, width};
    a.grad_q = {(Number*)grad_q, a.q.image, a.q.row}, a.grad_k = {(Number*)grad_k, a.k.image, a.k.row};
    a.grad_v = {(Number*)grad_v, a.v.image, a.v.row};
    a.grad_prompt_k = a.grad_prompt_v = a.grad_prompt_q = {a.grad_k.start, 0, 0};
    a.log_sums = log_sums, a.row_sums = row_sums;
    attention_backward<T, DEPTH, FULL, DROPOUT>(a);
}

// Tensors q (batch, queries, width), k and v (batch, keys, width).
template <class T, int DEPTH, bool DROPOUT, class Numbers>
void cross_forward(const Numbers& number, const void* q, const void* k, const void* v, const void* seed, void* out,
                   float* log_sums) {
    forward_of<T, DEPTH, DROPOUT>(number, APART, q, k, v, seed, out, log_sums);
}

template <class T, int DEPTH, bool DROPOUT, class Numbers>
void cross_backward(const Numbers& number, const void* q, const void* k, const void* v, const void* seed, const void* out,
                    const float* log_sums, const void* grad_out, void* grad_q, void* grad_k, void* grad_v, float* row_sums) {
    backward_of<T, DEPTH, DROPOUT>(number, APART, q, k, v, seed, out, log_sums, grad_out, grad_q, grad_k, grad_v, row_sums);
}

// Queries, keys or values (part 0, 1, 2) of tokens in which they lie side by side, (batch, tokens, 3 * width).
template <class T, class Numbers, class Place>
Place part_of(const Numbers& number, Place tokens, int part) {
    const long offset = part * (long)number("heads") * (long)number("depth") * sizeof(typename T::Number);
    return (Place)((uintptr_t)tokens + offset);
}

// Each side attends to the other: `first` (batch, queries, 3 * width), `second` (batch, keys, 3 * width).
template <class T, int DEPTH, bool DROPOUT, class Numbers>
void two_way_forward(const Numbers& number, const void* first, const void* second, const void* seed, const void* second_seed,
                     void* out, void* second_out, float* log_sums, float* second_log_sums) {
    const auto part = [&](const void* tokens, int i) { return part_of<T>(number, tokens, i); };
    forward_of<T, DEPTH, DROPOUT>(number, FORTH, first, part(second, 1), part(second, 2), seed, out, log_sums);
    forward_of<T, DEPTH, DROPOUT>(number, BACK, second, part(first, 1), part(first, 2), second_seed, second_out, second_log_sums);
}

template <class T, int DEPTH, bool DROPOUT, class Numbers>
void two_way_backward(const Numbers& number, const void* first, const void* second, const void* seed, const void* second_seed,
                      const void* out, const void* second_out, const float* log_sums, const float* second_log_sums,
                      const void* grad_out, const void* second_grad_out, void* grad_first, void* grad_second, float* row_sums,
                      float* second_row_sums) {
    const auto part = [&](auto tokens, int i) { return part_of<T>(number, tokens, i); };
    backward_of<T, DEPTH, DROPOUT>(number, FORTH, first, part(second, 1), part(second, 2), seed, out, log_sums, grad_out,
                                   grad_first, part(grad_second, 1), part(grad_second, 2), row_sums);
    backward_of<T, DEPTH, DROPOUT>(number, BACK, second, part(first, 1), part(first, 2), second_seed, second_out, second_log_sums,
                                   second_grad_out, grad_second, part(grad_first, 1), part(grad_first, 2), second_row_sums);
}

}  // namespace jseg
