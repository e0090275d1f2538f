// AdamW's rule for one number, for C++ and CUDA: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "both.h"

namespace jseg {

enum Kind : uint8_t { FLOAT32, BFLOAT16, FLOAT16 };

struct Tensor {
    void* start;
    int64_t size;
    Kind kind;
};
typedef std::vector<Tensor> Tensors;

struct Settings {
    double beta_m, beta_v, eps, lr;
    template <class Numbers>
    explicit Settings(const Numbers& number)
        : beta_m(number("beta_m")), beta_v(number("beta_v")), eps(number("eps")), lr(number("lr")) {}
};

struct Rule {
    float beta_m, rest_m, beta_v, rest_v, rate, root, eps;
};

// The rule of a step; `steps`: their number, this one included, for the bias corrections.
JSEG_BOTH Rule rule_of_step(const Settings& s, int32_t steps) {
    double power_m = 1, power_v = 1, square_m = s.beta_m, square_v = s.beta_v;
    for (; steps > 0; steps /= 2, square_m *= square_m, square_v *= square_v)
        if (steps % 2) power_m *= square_m, power_v *= square_v;
    return {(float)s.beta_m, (float)(1 - s.beta_m), (float)s.beta_v, (float)(1 - s.beta_v),
            (float)(s.lr / (1 - power_m)), (float)(1 / sqrt(1 - power_v)), (float)s.eps};
}

JSEG_BOTH float weight_kept(const Settings& s, float decay) { return 1 - s.lr * decay; }

JSEG_BOTH void update(const Rule& rule, float kept, float gradient, float& weight, float& m, float& v) {
    m = rule.beta_m * m + rule.rest_m * gradient;
    v = rule.beta_v * v + rule.rest_v * gradient * gradient;
    weight = kept * weight - rule.rate * m / (sqrtf(v) * rule.root + rule.eps);
}

// Factor on the gradients, whose squares add up to `square`, that scales their norm down to `highest` where it is above (0 =
// never); 0 unless `square` and all `sums` are finite.
JSEG_BOTH float factor_of(double square, const double* sums, int count, double highest) {
    double all = square;
    for (int i = 0; i < count; i++) all += sums[i];
    uint64_t bits;
    memcpy(&bits, &all, sizeof(bits));  // fast math would take every number for finite
    if ((bits >> 52 & 0x7FF) == 0x7FF) return 0;
    return highest > 0 && square > highest * highest ? highest / sqrt(square) : 1;
}

}  // namespace jseg
