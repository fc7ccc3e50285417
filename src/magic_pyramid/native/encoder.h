// The packed encoder: tokens leave between attention and feed-forward, sequences leave after an exit head.
#pragma once

#include <mutex>

#include "attention.h"
#include "exit_rule.h"
#include "heads.h"

namespace {

// A layer that prunes at all prunes at least below this importance, as LTP does.
constexpr float SMALLEST_THRESHOLD = 1e-5f;

// Of a token's embedding in 8 bits.
constexpr int LARGEST_WORD_CODE = 127;

// Fewer rows a thread than this share the columns of a product instead, so that each thread reads only its part
// of the weights, which in 8 bits are a quarter of the size.
constexpr int64_t ROWS_WORTH_A_THREAD = 24, ROWS_WORTH_A_THREAD_INT8 = 12;

// Room for one thread's work; it grows to what was needed and stays for the next batch.
struct Room {
    AttentionRoom attention;
    HeadRoom head;
    Codes codes;
    Buffer<float> seen, attended, widened;
};

inline Room& room_of_this_thread() {
    thread_local Room room;
    return room;
}

struct Layer {
    Matrix qkv, output, up, down;
    Norm attention_norm, output_norm;
    Head exit_head;
    float threshold = 0.0f;
};

// What is alive between two layers.
struct Alive {
    std::vector<int64_t> inputs;         // Which input each sequence is.
    std::vector<int64_t> starts;         // [sequences + 1]
    std::vector<int64_t> input_lengths;  // Tokens before any was removed.
    std::vector<uint8_t> is_protected;   // [tokens]: never removed.
    std::vector<int32_t> positions;      // [tokens]: where each stood in its input.
    Buffer<float> hidden, next_hidden;   // [tokens, stride]

    int64_t num_sequences() const { return static_cast<int64_t>(inputs.size()); }
    int64_t num_tokens() const { return starts.back(); }
    int64_t length(int64_t sequence) const {
        return starts[static_cast<size_t>(sequence) + 1] - starts[static_cast<size_t>(sequence)];
    }
};

// All memory of one run, kept for the next one: fresh pages would cost more than the arithmetic on them.
struct Workspace {
    Alive alive;
    Buffer<float> qkv, context, received, narrowed, logits;
    std::vector<int64_t> kept;  // Places of the tokens that stay.
};

template <class T>
inline void take(std::vector<T>& values, const std::vector<int64_t>& places) {
    for (size_t to = 0; to < places.size(); to++) values[to] = values[static_cast<size_t>(places[to])];
    values.resize(places.size());
}

class Encoder final : public magic_pyramid::Runner {
   public:
    Encoder(const mp_shape& shape, const Tensors& tensors);
    void run(const mp_batch& batch, Pool& pool) const override;

   private:
    class Run;

    mp_shape shape_;
    int64_t stride_;  // Of hidden states.
    Buffer<float> words_, positions_, types_;
    Buffer<int8_t> word_codes_;  // Instead of `words_`, with `word_scales_`.
    Buffer<float> word_scales_;
    Norm embedding_norm_;
    Matrix projection_;
    std::vector<Layer> layers_;
    Head final_head_;
    Buffer<float> bias_by_distance_;  // [heads, 2 * max_distance + 1]

    mutable std::mutex mutex_;
    mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

inline Buffer<float> copy_of(const Tensors& tensors, const std::string& name, int64_t count) {
    const float* from = find_tensor(tensors, name, count);
    Buffer<float> copy(count);
    std::copy(from, from + count, copy.get());
    return copy;
}

inline Encoder::Encoder(const mp_shape& shape, const Tensors& tensors)
    : shape_(shape), stride_(rounded_up(shape.hidden_size, NR)) {
    const int64_t width = shape.hidden_size, embedded = shape.embedding_size;
    const bool int8 = shape.int8 != 0;
    const float* words = find_tensor(tensors, "embeddings.token.weight", shape.vocab_size * embedded);
    if (int8) {
        int8_t* codes = word_codes_.grow(shape.vocab_size * embedded);
        float* scales = word_scales_.grow(shape.vocab_size);
        for (int64_t word = 0; word < shape.vocab_size; word++) {
            const float* row = words + word * embedded;
            float largest = 1.17549435e-38f;
            for (int64_t i = 0; i < embedded; i++) largest = std::max(largest, std::fabs(row[i]));
            scales[word] = largest / LARGEST_WORD_CODE;
            for (int64_t i = 0; i < embedded; i++) {
                codes[word * embedded + i] = static_cast<int8_t>(std::nearbyint(row[i] / scales[word]));
            }
        }
    } else {
        words_ = copy_of(tensors, "embeddings.token.weight", shape.vocab_size * embedded);
    }
    positions_ = copy_of(tensors, "embeddings.position.weight", shape.num_positions * embedded);
    if (shape.num_types) types_ = copy_of(tensors, "embeddings.token_type.weight", shape.num_types * embedded);
    embedding_norm_ = find_norm(tensors, "embeddings.norm", embedded, shape.layer_norm_eps);
    if (embedded != width) projection_ = find_matrix(tensors, "embeddings.projection", width, embedded, int8);
    const float scale = 1.0f / std::sqrt(static_cast<float>(width / shape.num_heads));
    for (int32_t index = 0; index < shape.num_layers; index++) {
        const std::string name = "layers." + std::to_string(index) + ".";
        Layer layer;
        // The scale inside the softmax is part of the queries.
        layer.qkv = make_matrix(find_tensor(tensors, name + "attention.qkv.weight", 3 * width * width),
                                find_tensor(tensors, name + "attention.qkv.bias", 3 * width), 3 * width, width, int8,
                                width, 1, scale, width);
        layer.output = find_matrix(tensors, name + "attention.output", width, width, int8);
        layer.up = find_matrix(tensors, name + "feedforward.up", shape.intermediate_size, width, int8);
        layer.down = find_matrix(tensors, name + "feedforward.down", width, shape.intermediate_size, int8);
        layer.attention_norm = find_norm(tensors, name + "attention_norm", width, shape.layer_norm_eps);
        layer.output_norm = find_norm(tensors, name + "output_norm", width, shape.layer_norm_eps);
        if (shape.prunes) layer.threshold = find_tensor(tensors, "thresholds", shape.num_layers)[index];
        const std::string head = "exit_heads." + std::to_string(index);
        const bool has_head = tensors.lower_bound(head + ".") != tensors.end() &&
                              tensors.lower_bound(head + ".")->first.rfind(head + ".", 0) == 0;
        if (has_head) layer.exit_head = Head(shape, tensors, head, shape.exit_head);
        layers_.push_back(std::move(layer));
    }
    final_head_ = Head(shape, tensors, "final_head", shape.final_head);
    if (shape.max_distance) {
        bias_by_distance_ = copy_of(tensors, "bias_by_distance", shape.num_heads * (2 * shape.max_distance + 1));
    }
}

// One batch on its way through the layers.
class Encoder::Run {
   public:
    Run(const Encoder& model, const mp_batch& batch, Pool& pool, Workspace& space)
        : model_(model), shape_(model.shape_), batch_(batch), pool_(pool), space_(space), alive_(space.alive),
          stride_(model.stride_), rule_(model.shape_) {}

    void answer() {
        check();
        embed();
        rule_.start(alive_.num_sequences());
        const int32_t last = shape_.num_layers - 1;
        for (int32_t layer = 0; layer <= last && alive_.num_sequences() > 0; layer++) {
            run_layer(model_.layers_[static_cast<size_t>(layer)]);
            for (int64_t i = 0; i < alive_.num_sequences(); i++) {
                batch_.num_tokens[alive_.inputs[static_cast<size_t>(i)] * (shape_.num_layers + 1) + layer + 1] =
                    alive_.length(i);
            }
            if (layer == last) continue;
            if (batch_.all_logits && model_.layers_[static_cast<size_t>(layer)].exit_head.exists()) note(layer);
            if (batch_.tests_exit[layer]) test_exits(layer);
        }
        if (alive_.num_sequences() == 0) return;
        ask(model_.final_head_);
        if (batch_.all_logits) copy_logits(last);
        for (int64_t i = 0; i < alive_.num_sequences(); i++) write(i, last);
    }

   private:
    // Runs work(first row, last row, team): alone on a block of rows, or with a team on all of them.
    template <class Work>
    void by_rows(int64_t rows, const Work& work) {
        const int64_t threads = pool_.threads();
        const int64_t worth = shape_.int8 ? ROWS_WORTH_A_THREAD_INT8 : ROWS_WORTH_A_THREAD;
        if (threads > 1 && rows < threads * worth) return work(0, rows, &pool_);
        int64_t blocks = (rows + ROW_BLOCK - 1) / ROW_BLOCK;
        if (blocks < 2 * threads) blocks = rounded_up(blocks, threads);
        // Blocks of whole tiles; only the last has rows that fill none.
        const int64_t tiles = (rows + MR - 1) / MR;
        pool_.run(static_cast<int>(blocks), [&](int block) {
            const int64_t first = tiles * block / blocks * MR;
            const int64_t last = std::min(rows, tiles * (block + 1) / blocks * MR);
            if (first < last) work(first, last, nullptr);
        });
    }

    // Nothing is read from outside the tables.
    void check() const {
        for (int32_t layer = 0; layer + 1 < shape_.num_layers; layer++) {
            if (batch_.tests_exit[layer] && !model_.layers_[static_cast<size_t>(layer)].exit_head.exists()) {
                throw std::runtime_error("layer " + std::to_string(layer) + " has no exit head");
            }
            if (batch_.tests_exit[layer] && batch_.all_logits) {
                throw std::runtime_error("all heads are wanted, so nobody may leave");
            }
        }
        for (int64_t i = 0; i < batch_.num_sequences; i++) {
            const int64_t start = batch_.starts[i], end = batch_.starts[i + 1];
            check_range("a length", end - start, 1, shape_.num_positions - shape_.position_offset);
            for (int64_t token = start; token < end; token++) {
                check_range("a token id", batch_.token_ids[token], 0, shape_.vocab_size - 1);
                if (batch_.token_types) check_range("a token type", batch_.token_types[token], 0, shape_.num_types - 1);
            }
        }
    }

    static void check_range(const char* what, int64_t value, int64_t least, int64_t most) {
        if (least <= value && value <= most) return;
        throw std::out_of_range(std::string(what) + " is " + std::to_string(value) + "; it must lie in [" +
                                std::to_string(least) + ", " + std::to_string(most) + "]");
    }

    void embed() {
        const int64_t tokens = batch_.starts[batch_.num_sequences], width = shape_.embedding_size;
        const auto count = static_cast<size_t>(batch_.num_sequences);
        alive_.starts.assign(batch_.starts, batch_.starts + count + 1);
        alive_.inputs.resize(count);
        alive_.input_lengths.resize(count);
        alive_.is_protected.assign(static_cast<size_t>(tokens), 0);
        alive_.positions.resize(static_cast<size_t>(tokens));
        for (int64_t i = 0; i < batch_.num_sequences; i++) {
            alive_.inputs[static_cast<size_t>(i)] = i;
            alive_.input_lengths[static_cast<size_t>(i)] = alive_.length(i);
            batch_.num_tokens[i * (shape_.num_layers + 1)] = alive_.length(i);
            for (int64_t token = batch_.starts[i]; token < batch_.starts[i + 1]; token++) {
                alive_.positions[static_cast<size_t>(token)] = static_cast<int32_t>(token - batch_.starts[i]);
                // The first token carries the label, so it may never be pruned.
                alive_.is_protected[static_cast<size_t>(token)] =
                    token == batch_.starts[i] || batch_.token_ids[token] == shape_.separator;
            }
        }
        const int64_t padded = model_.embedding_norm_.padded;
        float* hidden = alive_.hidden.grow(tokens * std::max(stride_, padded));
        const bool projects = model_.projection_.outputs > 0;
        float* embedded = projects ? alive_.next_hidden.grow(tokens * padded) : hidden;
        by_rows(tokens, [&](int64_t first, int64_t last, Pool* team) {
            for (int64_t token = first; token < last; token++) embed_token(token, width, embedded + token * padded);
            if (!projects) return;
            apply_linear(model_.projection_, last - first, embedded + first * padded, padded, hidden + first * stride_,
                         stride_, Activation::NONE, room_of_this_thread().codes, team);
        });
    }

    void embed_token(int64_t token, int64_t width, float* row) {
        const int64_t word = batch_.token_ids[token];
        const int64_t place = alive_.positions[static_cast<size_t>(token)] + shape_.position_offset;
        const float* position = model_.positions_.get() + place * width;
        const float* type = batch_.token_types ? model_.types_.get() + batch_.token_types[token] * width : nullptr;
        if (shape_.int8) {
            const int8_t* codes = model_.word_codes_.get() + word * width;
            const float scale = model_.word_scales_.get()[word];
            for (int64_t i = 0; i < width; i++) row[i] = static_cast<float>(codes[i]) * scale;
        } else {
            std::copy(model_.words_.get() + word * width, model_.words_.get() + (word + 1) * width, row);
        }
        for (int64_t i = 0; i < width; i++) row[i] += type ? position[i] + type[i] : position[i];
        std::fill(row + width, row + model_.embedding_norm_.padded, 0.0f);
        model_.embedding_norm_.normalise(row);
    }

    void run_layer(const Layer& layer) {
        const bool prunes = batch_.prune_scale > 0.0f && layer.threshold > 0.0f;
        project(layer);
        attend_all(prunes);
        if (prunes) choose_tokens(layer);
        finish(layer, prunes);
    }

    void project(const Layer& layer) {
        float* qkv = space_.qkv.grow(alive_.num_tokens() * layer.qkv.padded);
        const float* hidden = alive_.hidden.get();
        by_rows(alive_.num_tokens(), [&](int64_t first, int64_t last, Pool* team) {
            apply_linear(layer.qkv, last - first, hidden + first * stride_, stride_, qkv + first * layer.qkv.padded,
                         layer.qkv.padded, Activation::NONE, room_of_this_thread().codes, team);
        });
    }

    void attend_all(bool prunes) {
        const int64_t sequences = alive_.num_sequences(), heads = shape_.num_heads;
        space_.context.grow(alive_.num_tokens() * stride_);
        // Each sum is written as whole vectors, so a sequence's place begins at one.
        if (prunes) space_.received.grow(heads * received_stride());
        if (sequences >= 4 * pool_.threads()) {
            pool_.run(static_cast<int>(sequences), [&](int sequence) {
                for (int64_t head = 0; head < heads; head++) attend_one(sequence, head, prunes);
            });
            return;
        }
        pool_.run(static_cast<int>(sequences * heads), [&](int part) { attend_one(part / heads, part % heads, prunes); });
    }

    int64_t received_stride() const { return alive_.num_tokens() + alive_.num_sequences() * W; }
    int64_t received_start(int64_t sequence) const {
        return alive_.starts[static_cast<size_t>(sequence)] + sequence * W;
    }

    void attend_one(int64_t sequence, int64_t head, bool prunes) {
        const int64_t start = alive_.starts[static_cast<size_t>(sequence)], width = shape_.hidden_size;
        const int64_t size = width / shape_.num_heads, stride = model_.layers_[0].qkv.padded;
        const float* query = space_.qkv.get() + start * stride + head * size;
        const HeadView view{query, query + width, query + 2 * width, stride, alive_.length(sequence), size};
        PositionBias bias;
        if (shape_.max_distance) {
            bias.by_distance =
                model_.bias_by_distance_.get() + head * (2 * shape_.max_distance + 1) + shape_.max_distance;
            bias.positions = alive_.positions.data() + start;
        }
        float* received =
            prunes ? space_.received.get() + head * received_stride() + received_start(sequence) : nullptr;
        attend(view, bias, room_of_this_thread().attention, space_.context.get() + start * stride_ + head * size,
               stride_, received);
    }

    // The places of the tokens that stay: protected, or with at least the attention mass that their sequence asks.
    void choose_tokens(const Layer& layer) {
        std::vector<int64_t>& kept = space_.kept;
        kept.clear();
        const float threshold = std::max(layer.threshold * batch_.prune_scale, SMALLEST_THRESHOLD);
        std::vector<int64_t> starts{0};
        for (int64_t sequence = 0; sequence < alive_.num_sequences(); sequence++) {
            const int64_t length = alive_.length(sequence), start = alive_.starts[static_cast<size_t>(sequence)];
            const float bar = threshold * divisor(sequence, length);
            for (int64_t i = 0; i < length; i++) {
                float mass = 0.0f;
                for (int64_t head = 0; head < shape_.num_heads; head++) {
                    mass += space_.received.get()[head * received_stride() + received_start(sequence) + i];
                }
                mass /= static_cast<float>(shape_.num_heads);
                if (mass >= bar || alive_.is_protected[static_cast<size_t>(start + i)]) kept.push_back(start + i);
            }
            starts.push_back(static_cast<int64_t>(kept.size()));
        }
        alive_.starts = std::move(starts);
        take(alive_.is_protected, kept);
        take(alive_.positions, kept);
    }

    float divisor(int64_t sequence, int64_t length) const {
        switch (shape_.divisor) {
            case MP_INPUT: return static_cast<float>(alive_.input_lengths[static_cast<size_t>(sequence)]);
            case MP_FIXED: return static_cast<float>(shape_.fixed_length);
            default: return static_cast<float>(length);
        }
    }

    // Output projection and feed-forward of the tokens that stay.
    void finish(const Layer& layer, bool prunes) {
        float* next = alive_.next_hidden.grow(alive_.num_tokens() * stride_);
        by_rows(alive_.num_tokens(), [&](int64_t first, int64_t last, Pool* team) {
            Room& room = room_of_this_thread();
            const int64_t rows = last - first, widened_stride = layer.up.padded;
            float* seen = room.seen.grow(rows * stride_);
            float* attended = room.attended.grow(rows * stride_);
            float* widened = room.widened.grow(rows * widened_stride);
            const auto place = [&](int64_t row) {
                return prunes ? space_.kept[static_cast<size_t>(first + row)] : first + row;
            };
            for (int64_t row = 0; row < rows; row++) {
                const float* from = space_.context.get() + place(row) * stride_;
                std::copy(from, from + shape_.hidden_size, seen + row * stride_);
            }
            apply_linear(layer.output, rows, seen, stride_, attended, stride_, Activation::NONE, room.codes, team);
            for (int64_t row = 0; row < rows; row++) {
                float* at = attended + row * stride_;
                add_rows(at, stride_, alive_.hidden.get() + place(row) * stride_, stride_, 1, stride_);
                layer.attention_norm.normalise(at);
            }
            apply_linear(layer.up, rows, attended, stride_, widened, widened_stride, activation_of(shape_.hidden_act),
                         room.codes, team);
            float* output = next + first * stride_;
            apply_linear(layer.down, rows, widened, widened_stride, output, stride_, Activation::NONE, room.codes,
                         team);
            add_rows(output, stride_, attended, stride_, rows, stride_);
            for (int64_t row = 0; row < rows; row++) layer.output_norm.normalise(output + row * stride_);
        });
        std::swap(alive_.hidden, alive_.next_hidden);
    }

    // Logits of a head for every sequence, to `space_.logits`.
    void ask(const Head& head) {
        const int64_t sequences = alive_.num_sequences(), tokens = alive_.num_tokens();
        States states{alive_.hidden.get(), stride_, alive_.starts.data(), sequences};
        if (head.narrows()) {
            const Matrix& narrow = head.narrow();
            float* narrowed = space_.narrowed.grow(tokens * narrow.padded);
            by_rows(tokens, [&](int64_t first, int64_t last, Pool* team) {
                apply_linear(narrow, last - first, states.data + first * stride_, stride_,
                             narrowed + first * narrow.padded, narrow.padded, Activation::TANH,
                             room_of_this_thread().codes, team);
            });
            states.data = narrowed;
            states.stride = narrow.padded;
        }
        float* logits = space_.logits.grow(sequences * shape_.num_labels);
        const int64_t tiles = (sequences + MR - 1) / MR;
        const int64_t parts = std::min<int64_t>(tiles, 4 * pool_.threads());
        pool_.run(static_cast<int>(parts), [&](int part) {
            const int64_t first = tiles * part / parts * MR;
            const int64_t last = std::min(sequences, tiles * (part + 1) / parts * MR);
            if (first < last) {
                head.answer(states, first, last, room_of_this_thread().head, logits + first * shape_.num_labels);
            }
        });
    }

    // What the exit head after a layer says, while every sequence is there.
    void note(int32_t layer) {
        ask(model_.layers_[static_cast<size_t>(layer)].exit_head);
        copy_logits(layer);
    }

    void copy_logits(int32_t layer) {
        const int64_t count = batch_.num_sequences * shape_.num_labels;
        std::copy(space_.logits.get(), space_.logits.get() + count, batch_.all_logits + layer * count);
    }

    void test_exits(int32_t layer) {
        ask(model_.layers_[static_cast<size_t>(layer)].exit_head);
        std::vector<int64_t> staying;
        for (int64_t i = 0; i < alive_.num_sequences(); i++) {
            if (rule_.leaves(i, space_.logits.get() + i * shape_.num_labels, batch_.exit_thresholds[layer])) {
                write(i, layer);
            } else {
                staying.push_back(i);
            }
        }
        if (static_cast<int64_t>(staying.size()) < alive_.num_sequences()) select_sequences(staying);
    }

    void select_sequences(const std::vector<int64_t>& staying) {
        std::vector<int64_t> tokens, starts{0};
        for (const int64_t sequence : staying) {
            for (int64_t token = alive_.starts[static_cast<size_t>(sequence)];
                 token < alive_.starts[static_cast<size_t>(sequence) + 1]; token++) {
                tokens.push_back(token);
            }
            starts.push_back(static_cast<int64_t>(tokens.size()));
        }
        // What stays moves up, so no row is overwritten before it was read.
        float* hidden = alive_.hidden.get();
        for (size_t to = 0; to < tokens.size(); to++) {
            const float* from = hidden + tokens[to] * stride_;
            if (static_cast<int64_t>(to) < tokens[to]) {
                std::copy(from, from + stride_, hidden + static_cast<int64_t>(to) * stride_);
            }
        }
        take(alive_.is_protected, tokens);
        take(alive_.positions, tokens);
        take(alive_.inputs, staying);
        take(alive_.input_lengths, staying);
        alive_.starts = std::move(starts);
        rule_.keep(staying);
    }

    void write(int64_t sequence, int32_t layer) {
        const int64_t input = alive_.inputs[static_cast<size_t>(sequence)];
        const float* logits = space_.logits.get() + sequence * shape_.num_labels;
        std::copy(logits, logits + shape_.num_labels, batch_.logits + input * shape_.num_labels);
        batch_.exit_layer[input] = layer;
    }

    const Encoder& model_;
    const mp_shape& shape_;
    const mp_batch& batch_;
    Pool& pool_;
    Workspace& space_;
    Alive& alive_;
    const int64_t stride_;
    ExitRule rule_;
};

inline void Encoder::run(const mp_batch& batch, Pool& pool) const {
    std::unique_ptr<Workspace> space;
    {
        // Whoever finds it locked, such as a process forked at this moment, does with new memory.
        const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (lock.owns_lock() && !idle_.empty()) {
            space = std::move(idle_.back());
            idle_.pop_back();
        }
    }
    if (!space) space = std::make_unique<Workspace>();
    Run(*this, batch, pool, *space).answer();
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (lock.owns_lock()) idle_.push_back(std::move(space));
}

}  // namespace
