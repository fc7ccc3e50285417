// Classifiers on the hidden states of a layer: the exit heads and the final head.
#pragma once

#include "linear.h"
#include "runner.h"

namespace {

using magic_pyramid::Pool;
using magic_pyramid::Tensor;
using magic_pyramid::Tensors;

inline const float* find_tensor(const Tensors& tensors, const std::string& name, int64_t count) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) throw std::runtime_error("the tensor " + name + " is missing");
    if (found->second.count != count) {
        throw std::runtime_error("the tensor " + name + " has " + std::to_string(found->second.count) +
                                 " numbers; it must have " + std::to_string(count));
    }
    return found->second.data;
}

inline Matrix find_matrix(const Tensors& tensors, const std::string& name, int64_t outputs, int64_t inputs,
                          bool int8) {
    return make_matrix(find_tensor(tensors, name + ".weight", outputs * inputs),
                       find_tensor(tensors, name + ".bias", outputs), outputs, inputs, int8, inputs);
}

// LayerNorm; weights and biases are padded with zeros, so that padded columns stay 0.
struct Norm {
    int64_t size = 0, padded = 0;
    float eps = 0;
    Buffer<float> weight, bias;

    void normalise(float* row) const {
        const int64_t whole = size / W * W;
        Vec totals = splat(0.0f);
        for (int64_t i = 0; i < whole; i += W) totals += load(row + i);
        float total = sum_of(totals);
        for (int64_t i = whole; i < size; i++) total += row[i];
        const float mean = total / static_cast<float>(size);
        Vec squares = splat(0.0f);
        for (int64_t i = 0; i < whole; i += W) {
            const Vec away = load(row + i) - splat(mean);
            squares += away * away;
        }
        float square = sum_of(squares);
        for (int64_t i = whole; i < size; i++) square += (row[i] - mean) * (row[i] - mean);
        const Vec scale = splat(1.0f / std::sqrt(square / static_cast<float>(size) + eps));
        for (int64_t i = 0; i < padded; i += W) {
            store(row + i, (load(row + i) - splat(mean)) * scale * load(weight.get() + i) + load(bias.get() + i));
        }
    }
};

inline Norm find_norm(const Tensors& tensors, const std::string& name, int64_t size, float eps) {
    Norm norm;
    norm.size = size;
    norm.padded = rounded_up(size, NR);
    norm.eps = eps;
    for (auto [to, part] : {std::pair{&norm.weight, ".weight"}, std::pair{&norm.bias, ".bias"}}) {
        const float* from = find_tensor(tensors, name + part, size);
        float* padded = to->grow(norm.padded);
        std::fill(std::copy(from, from + size, padded), padded + norm.padded, 0.0f);
    }
    return norm;
}

inline void add_rows(float* to, int64_t to_stride, const float* from, int64_t from_stride, int64_t rows,
                     int64_t columns) {
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t i = 0; i < columns; i += W) {
            float* at = to + row * to_stride + i;
            store(at, load(at) + load(from + row * from_stride + i));
        }
    }
}

// Hidden states of packed sequences.
struct States {
    const float* data;
    int64_t stride;
    const int64_t* starts;  // [sequences + 1]
    int64_t num_sequences;

    int64_t num_tokens() const { return starts[num_sequences]; }
    const float* first_of(int64_t sequence) const { return data + starts[sequence] * stride; }
};

// Room for one thread's work on a group of sequences.
struct HeadRoom {
    Buffer<float> first, query, folded, weights, seen, values, attended, widened, dense;
    Codes codes;
};

// Self-attention of which only the first token's result is computed. The key and value matrices are applied
// once a sequence, not once a token: (Wq x) . (Wk y) = (Wk' Wq x) . y, and sum a (Wv y) = Wv sum a y.
class FirstTokenAttention {
   public:
    FirstTokenAttention() = default;
    FirstTokenAttention(const Tensors& tensors, const std::string& name, int64_t size, int64_t num_heads)
        : size_(size), padded_(rounded_up(size, NR)), num_heads_(num_heads), head_size_(size / num_heads) {
        query_ = find_matrix(tensors, name + ".query", size, size, false);
        output_ = find_matrix(tensors, name + ".output", size, size, false);
        const float* key = find_tensor(tensors, name + ".key.weight", size * size);
        const float* value = find_tensor(tensors, name + ".value.weight", size * size);
        const float* value_bias = find_tensor(tensors, name + ".value.bias", size);
        for (int64_t head = 0; head < num_heads; head++) {
            const int64_t first = head * head_size_;
            const float* rows = key + first * size;
            keys_.push_back(make_matrix(rows, nullptr, size, head_size_, false, 1, size,
                                        1.0f / std::sqrt(static_cast<float>(head_size_)), size));
            values_.push_back(
                make_matrix(value + first * size, value_bias + first, head_size_, size, false, size));
        }
    }

    // To `output` [sequences, padded size]: what the first token of each sequence [first, last) sees.
    void see(const States& states, int64_t first, int64_t last, HeadRoom& room, float* output) const {
        const int64_t count = last - first;
        float* firsts = room.first.grow(count * padded_);
        for (int64_t i = 0; i < count; i++) {
            std::copy(states.first_of(first + i), states.first_of(first + i) + padded_, firsts + i * padded_);
        }
        float* query = room.query.grow(count * padded_);
        apply_linear(query_, count, firsts, padded_, query, padded_, Activation::NONE, room.codes);
        float* folded = room.folded.grow(count * padded_);
        float* seen = room.seen.grow(count * padded_);
        float* values = room.values.grow(count * padded_ + NR);
        for (int64_t head = 0; head < num_heads_; head++) {
            const auto index = static_cast<size_t>(head);
            apply_linear(keys_[index], count, query + head * head_size_, padded_, folded, padded_, Activation::NONE,
                         room.codes);
            for (int64_t i = 0; i < count; i++) {
                see_one(states, first + i, folded + i * padded_, room, seen + i * padded_);
            }
            // Its panels are written whole; the next head overwrites what is too much.
            float* part = room.dense.grow(count * values_[index].padded);
            apply_linear(values_[index], count, seen, padded_, part, values_[index].padded, Activation::NONE,
                         room.codes);
            for (int64_t i = 0; i < count; i++) {
                const float* from = part + i * values_[index].padded;
                std::copy(from, from + head_size_, values + i * padded_ + head * head_size_);
            }
        }
        apply_linear(output_, count, values, padded_, output, padded_, Activation::NONE, room.codes);
    }

   private:
    // Mean of a sequence's states, weighted by the softmax of their products with a query.
    void see_one(const States& states, int64_t sequence, const float* query, HeadRoom& room, float* seen) const {
        const int64_t start = states.starts[sequence], length = states.starts[sequence + 1] - start;
        const float* rows = states.data + start * states.stride;
        float* weights = room.weights.grow(length);
        float largest = -INFINITY;
        for (int64_t token = 0; token < length; token++) {
            Vec totals = splat(0.0f);
            for (int64_t i = 0; i < padded_; i += W) totals += load(rows + token * states.stride + i) * load(query + i);
            weights[token] = sum_of(totals);
            largest = std::max(largest, weights[token]);
        }
        float total = 0.0f;
        for (int64_t token = 0; token < length; token++) {
            weights[token] = std::exp(weights[token] - largest);
            total += weights[token];
        }
        std::fill(seen, seen + padded_, 0.0f);
        for (int64_t token = 0; token < length; token++) {
            const Vec weight = splat(weights[token] / total);
            for (int64_t i = 0; i < padded_; i += W) {
                store(seen + i, load(seen + i) + weight * load(rows + token * states.stride + i));
            }
        }
    }

    int64_t size_ = 0, padded_ = 0, num_heads_ = 0, head_size_ = 0;
    Matrix query_, output_;
    std::vector<Matrix> keys_, values_;  // By head.
};

inline Activation activation_of(int32_t code) {
    switch (code) {
        case MP_GELU: return Activation::GELU;
        case MP_GELU_TANH: return Activation::GELU_TANH;
        case MP_RELU: return Activation::RELU;
        case MP_SILU: return Activation::SILU;
        case MP_TANH: return Activation::TANH;
        default: throw std::runtime_error("there is no activation " + std::to_string(code));
    }
}

class Head {
   public:
    Head() = default;
    Head(const mp_shape& shape, const Tensors& tensors, const std::string& name, int32_t kind) : kind_(kind) {
        const int64_t width = shape.hidden_size, labels = shape.num_labels;
        const bool int8 = shape.int8 != 0;
        if (kind == MP_HEAD_FASTBERT) {
            const int64_t size = shape.exit_head_size;
            narrow_ = find_matrix(tensors, name + ".narrow", size, width, int8);
            attention_ = FirstTokenAttention(tensors, name + ".attention", size, shape.exit_head_heads);
            dense_ = find_matrix(tensors, name + ".dense", size, size, false);
            output_ = find_matrix(tensors, name + ".output", labels, size, false);
            activation_ = Activation::TANH;
            return;
        }
        const std::string classifier = kind == MP_HEAD_BLOCK ? name + ".classifier" : name;
        dense_ = find_matrix(tensors, classifier + ".dense", width, width, false);
        output_ = find_matrix(tensors, classifier + ".output", labels, width, false);
        activation_ = activation_of(shape.head_act);
        if (kind != MP_HEAD_BLOCK) return;
        attention_ = FirstTokenAttention(tensors, name + ".attention", width, shape.num_heads);
        attention_norm_ = find_norm(tensors, name + ".attention_norm", width, shape.layer_norm_eps);
        up_ = find_matrix(tensors, name + ".up", shape.intermediate_size, width, false);
        down_ = find_matrix(tensors, name + ".down", width, shape.intermediate_size, false);
        output_norm_ = find_norm(tensors, name + ".output_norm", width, shape.layer_norm_eps);
        block_activation_ = activation_of(shape.hidden_act);
    }

    bool exists() const { return output_.outputs > 0; }
    bool narrows() const { return kind_ == MP_HEAD_FASTBERT; }
    const Matrix& narrow() const { return narrow_; }

    // Logits [sequences, labels] of the sequences [first, last); states are narrowed where the head narrows.
    void answer(const States& states, int64_t first, int64_t last, HeadRoom& room, float* logits) const {
        const int64_t count = last - first, width = rounded_up(dense_.inputs, NR);
        float* input = room.attended.grow(count * width);
        if (kind_ == MP_HEAD_FASTBERT) {
            attention_.see(states, first, last, room, input);
        } else {
            for (int64_t i = 0; i < count; i++) {
                std::copy(states.first_of(first + i), states.first_of(first + i) + width, input + i * width);
            }
        }
        if (kind_ == MP_HEAD_BLOCK) run_block(states, first, last, room, input, width);
        float* dense = room.dense.grow(count * dense_.padded);
        apply_linear(dense_, count, input, width, dense, dense_.padded, activation_, room.codes);
        float* padded = room.widened.grow(count * output_.padded);
        apply_linear(output_, count, dense, dense_.padded, padded, output_.padded, Activation::NONE, room.codes);
        for (int64_t i = 0; i < count; i++) {
            std::copy(padded + i * output_.padded, padded + i * output_.padded + output_.outputs,
                      logits + i * output_.outputs);
        }
    }

   private:
    // One more transformer layer for the first tokens, which are in `rows`.
    void run_block(const States& states, int64_t first, int64_t last, HeadRoom& room, float* rows,
                   int64_t width) const {
        const int64_t count = last - first;
        Buffer<float> seen(count * width);
        attention_.see(states, first, last, room, seen.get());
        add_rows(rows, width, seen.get(), width, count, width);
        for (int64_t i = 0; i < count; i++) attention_norm_.normalise(rows + i * width);
        float* widened = room.widened.grow(count * up_.padded);
        apply_linear(up_, count, rows, width, widened, up_.padded, block_activation_, room.codes);
        apply_linear(down_, count, widened, up_.padded, seen.get(), width, Activation::NONE, room.codes);
        add_rows(rows, width, seen.get(), width, count, width);
        for (int64_t i = 0; i < count; i++) output_norm_.normalise(rows + i * width);
    }

    int32_t kind_ = MP_HEAD_CLS;
    Activation activation_ = Activation::TANH, block_activation_ = Activation::GELU;
    Matrix narrow_, dense_, output_, up_, down_;
    FirstTokenAttention attention_;
    Norm attention_norm_, output_norm_;
};

}  // namespace
