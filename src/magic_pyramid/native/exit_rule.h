// When a sequence may leave: the uncertainty of an answer, and the rule that compares it with the threshold.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine.h"

namespace {

// How far an answer is from sure: 0 is one-hot, 1 is uniform. Probabilities sum to 1.
inline float uncertainty_of(const std::vector<float>& probs, int32_t criterion) {
    const auto labels = static_cast<float>(probs.size());
    float first = 0.0f, second = 0.0f, entropy = 0.0f;
    for (const float prob : probs) {
        if (prob > first) {
            second = first;
            first = prob;
        } else {
            second = std::max(second, prob);
        }
        if (prob > 0.0f) entropy -= prob * std::log(prob);
    }
    switch (criterion) {
        case MP_MAX_PROB: return (1.0f - first) * labels / (labels - 1.0f);
        case MP_MARGIN: return 1.0f - (first - second);
        default: return entropy / std::log(labels);
    }
}

class ExitRule {
   public:
    explicit ExitRule(const mp_shape& shape) : shape_(shape) {}

    // Remembers nothing of `sequences` sequences.
    void start(int64_t sequences) {
        if (shape_.criterion != MP_PATIENCE) return;
        streaks_.assign(static_cast<size_t>(sequences), 0);
        answers_.assign(static_cast<size_t>(sequences * num_answers()), NAN);
    }

    // Whether the sequence at this place leaves with these logits; to be asked once a head, in any order.
    // `threshold`: leave when the uncertainty is at most this.
    bool leaves(int64_t place, const float* logits, float threshold) {
        if (shape_.criterion == MP_PATIENCE) {
            return 1.0f / (static_cast<float>(streak(place, logits)) + 0.5f) <= threshold;
        }
        return uncertainty(logits) <= threshold;
    }

    void keep(const std::vector<int64_t>& places) {
        if (shape_.criterion != MP_PATIENCE) return;
        const int64_t width = num_answers();
        for (size_t to = 0; to < places.size(); to++) {
            const auto from = static_cast<size_t>(places[to]);
            streaks_[to] = streaks_[from];
            for (int64_t i = 0; i < width; i++) {
                answers_[to * static_cast<size_t>(width) + static_cast<size_t>(i)] =
                    answers_[from * static_cast<size_t>(width) + static_cast<size_t>(i)];
            }
        }
    }

   private:
    int64_t num_answers() const { return shape_.problem == MP_SINGLE_LABEL ? 1 : shape_.num_labels; }

    float uncertainty(const float* logits) {
        const int64_t labels = shape_.num_labels;
        if (shape_.problem == MP_MULTI_LABEL) {
            float worst = 0.0f;
            for (int64_t i = 0; i < labels; i++) {
                // The power of a number that is never positive cannot overflow.
                const float power = std::exp(-std::fabs(logits[i]));
                probs_.assign({1.0f / (1.0f + power), power / (1.0f + power)});
                worst = std::max(worst, uncertainty_of(probs_, shape_.criterion));
            }
            return std::min(worst, 1.0f);
        }
        if (labels == 1) return 0.0f;
        const float largest = *std::max_element(logits, logits + labels);
        probs_.resize(static_cast<size_t>(labels));
        float total = 0.0f;
        for (int64_t i = 0; i < labels; i++) {
            const float power = std::exp(logits[i] - largest);
            probs_[static_cast<size_t>(i)] = power;
            total += power;
        }
        for (float& prob : probs_) prob /= total;
        return std::min(std::max(uncertainty_of(probs_, shape_.criterion), 0.0f), 1.0f);
    }

    // How many heads in a row, this one included, gave the same answer.
    int64_t streak(int64_t place, const float* logits) {
        const int64_t labels = shape_.num_labels, width = num_answers();
        const float tolerance = shape_.problem == MP_REGRESSION ? shape_.patience_tolerance : 0.0f;
        float* previous = answers_.data() + place * width;
        bool agrees = true;
        for (int64_t i = 0; i < width; i++) {
            float answer = logits[i];
            if (shape_.problem == MP_SINGLE_LABEL) {
                answer = static_cast<float>(std::max_element(logits, logits + labels) - logits);
            } else if (shape_.problem == MP_MULTI_LABEL) {
                answer = logits[i] > 0.0f ? 1.0f : 0.0f;
            }
            // Before the first head the previous answer is NaN, which agrees with nothing.
            agrees = agrees && std::fabs(answer - previous[i]) <= tolerance;
            previous[i] = answer;
        }
        int64_t& count = streaks_[static_cast<size_t>(place)];
        count = agrees ? count + 1 : 1;
        return count;
    }

    const mp_shape& shape_;
    std::vector<int64_t> streaks_;
    std::vector<float> answers_;
    std::vector<float> probs_;
};

}  // namespace
