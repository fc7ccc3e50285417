// Self-attention of one head of one sequence, which also sums the attention that each token receives.
#pragma once

#include "linear.h"

namespace {

// Room for one thread's work on one sequence; it grows to the longest and stays.
struct AttentionRoom {
    Buffer<float> keys, values, scores, seen;
};

constexpr int64_t QUERY_BLOCK = 4 * MR;
// A key whose score is lower than the largest by this gets a probability below 1e-30, which changes no sum;
// less would become a denormal number, which is slow.
constexpr float NEGLIGIBLE = 70.0f;

// Where a head's queries, keys and values lie among the rows of the first product.
struct HeadView {
    const float* query;
    const float* key;
    const float* value;
    int64_t stride;       // From token to token.
    int64_t length, size;  // Tokens, numbers a head.
};

// What is added to the scores by distance: `by_distance[key position - query position]`.
struct PositionBias {
    const float* by_distance = nullptr;
    const int32_t* positions = nullptr;
};

inline void multiply_panel(int64_t vectors, int64_t rows, const float* a, int64_t a_stride, const float* b,
                           int64_t inner, float* c, int64_t c_stride) {
    switch (vectors) {
        case 1: return multiply_rows<1>(rows, a, a_stride, b, inner, c, c_stride);
        case 2: return multiply_rows<2>(rows, a, a_stride, b, inner, c, c_stride);
#if MP_VECTORS > 2
        case 3: return multiply_rows<3>(rows, a, a_stride, b, inner, c, c_stride);
        case 4: return multiply_rows<4>(rows, a, a_stride, b, inner, c, c_stride);
#endif
        default: return;
    }
}

// c[rows, columns] = a @ b, where b is stored as panels of up to NR columns, each [inner, its columns].
inline void multiply_packed(int64_t rows, const float* a, int64_t a_stride, const float* b, int64_t inner,
                            int64_t columns, float* c, int64_t c_stride) {
    for (int64_t first = 0; first < columns; first += NR) {
        const int64_t width = std::min<int64_t>(NR, columns - first);
        multiply_panel(width / W, rows, a, a_stride, b + first * inner, inner, c + first, c_stride);
    }
}

// Keys as columns, padded with zeros to a multiple of W.
inline void pack_keys(const HeadView& head, float* to) {
    const int64_t padded = rounded_up(head.length, W);
    for (int64_t first = 0; first < padded; first += NR) {
        const int64_t width = std::min<int64_t>(NR, padded - first);
        float* panel = to + first * head.size;
        const int64_t real = std::min(width, head.length - first);
        for (int64_t column = 0; column < real; column++) {
            const float* key = head.key + (first + column) * head.stride;
            for (int64_t i = 0; i < head.size; i++) panel[i * width + column] = key[i];
        }
        for (int64_t i = 0; i < head.size; i++) {
            std::fill(panel + i * width + real, panel + (i + 1) * width, 0.0f);
        }
    }
}

// Values as rows, padded with zeros to a multiple of W.
inline void pack_values(const HeadView& head, float* to) {
    const int64_t padded = rounded_up(head.size, W);
    for (int64_t first = 0; first < padded; first += NR) {
        const int64_t width = std::min<int64_t>(NR, padded - first);
        float* panel = to + first * head.length;
        const int64_t real = std::min(width, head.size - first);
        for (int64_t token = 0; token < head.length; token++) {
            const float* value = head.value + token * head.stride + first;
            std::copy(value, value + real, panel + token * width);
            std::fill(panel + token * width + real, panel + (token + 1) * width, 0.0f);
        }
    }
}

// Scores to probabilities in place; columns from `length` to the next multiple of W become 0.
inline void softmax_row(float* row, int64_t length) {
    const int64_t whole = length / W * W;
    Vec highest = splat(row[0]);
    for (int64_t i = 0; i < whole; i += W) highest = larger(highest, load(row + i));
    float largest = largest_of(highest);
    for (int64_t i = whole; i < length; i++) largest = std::max(largest, row[i]);
    Vec totals = splat(0.0f);
    const Vec shift = splat(largest), floor = splat(-NEGLIGIBLE);
    for (int64_t i = 0; i < whole; i += W) {
        const Vec power = exponential(larger(load(row + i) - shift, floor));
        store(row + i, power);
        totals += power;
    }
    if (whole < length) {
        const Vec power = first_lanes(exponential(larger(load(row + whole) - shift, floor)), length - whole);
        store(row + whole, power);
        totals += power;
    }
    const Vec scale = splat(1.0f / sum_of(totals));
    for (int64_t i = 0; i < length; i += W) store(row + i, load(row + i) * scale);
}

// What each token sees, to `context[token * stride]`; `received[token]`, if asked for, sums its column.
inline void attend(const HeadView& head, const PositionBias& bias, AttentionRoom& room, float* context,
                   int64_t context_stride, float* received) {
    const int64_t padded_length = rounded_up(head.length, W), padded_size = rounded_up(head.size, W);
    float* keys = room.keys.grow(padded_length * head.size);
    float* values = room.values.grow(head.length * padded_size);
    float* scores = room.scores.grow(QUERY_BLOCK * padded_length);
    float* seen = room.seen.grow(QUERY_BLOCK * padded_size);
    pack_keys(head, keys);
    pack_values(head, values);
    if (received) std::fill(received, received + padded_length, 0.0f);
    for (int64_t first = 0; first < head.length; first += QUERY_BLOCK) {
        const int64_t rows = std::min(QUERY_BLOCK, head.length - first);
        multiply_packed(rows, head.query + first * head.stride, head.stride, keys, head.size, padded_length, scores,
                        padded_length);
        for (int64_t row = 0; row < rows; row++) {
            float* probs = scores + row * padded_length;
            if (bias.by_distance) {
                const int32_t here = bias.positions[first + row];
                for (int64_t key = 0; key < head.length; key++) {
                    probs[key] += bias.by_distance[bias.positions[key] - here];
                }
            }
            softmax_row(probs, head.length);
            for (int64_t i = 0; received && i < padded_length; i += W) {
                store(received + i, load(received + i) + load(probs + i));
            }
        }
        const bool fits = padded_size == head.size;
        float* to = fits ? context + first * context_stride : seen;
        const int64_t stride = fits ? context_stride : padded_size;
        multiply_packed(rows, scores, padded_length, values, head.length, padded_size, to, stride);
        for (int64_t row = 0; !fits && row < rows; row++) {
            std::copy(seen + row * stride, seen + row * stride + head.size, context + (first + row) * context_stride);
        }
    }
}

}  // namespace
