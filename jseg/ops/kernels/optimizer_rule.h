// AdamW's rule for one number, for C++ and CUDA: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
#pragma once

#include <cmath>
#include <cstdint>
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

}  // namespace jseg
