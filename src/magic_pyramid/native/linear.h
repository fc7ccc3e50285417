// Matrix products on few rows: weights in tiles of NR columns, in fp32 or in 8 bits.
//
// A row's result depends on that row alone: the order of its sums is the same wherever it stands in a batch.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "pool.h"
#include "vector.h"

namespace {

inline int64_t rounded_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Memory for one kind of number, aligned for every vector register.
template <class T>
class Buffer {
   public:
    Buffer() = default;
    explicit Buffer(int64_t count) { grow(count); }

    // At least this much room; what was in it is lost.
    T* grow(int64_t count) {
        if (count > room_) {
            data_.reset();
            room_ = 0;
            const int64_t bytes = rounded_up(count * static_cast<int64_t>(sizeof(T)), 64);
            data_.reset(static_cast<T*>(std::aligned_alloc(64, static_cast<size_t>(bytes))));
            if (!data_) throw std::bad_alloc();
            room_ = count;
        }
        return data_.get();
    }

    T* get() const { return data_.get(); }
    explicit operator bool() const { return room_ > 0; }

   private:
    struct Free {
        void operator()(T* data) const { std::free(data); }
    };
    std::unique_ptr<T, Free> data_;
    int64_t room_ = 0;
};

constexpr int STEPS = 254;  // From the smallest activation of a row to its largest; either end may round up.
constexpr float SMALLEST_SCALE = 1e-30f;

// A linear layer [outputs, inputs] in tiles of NR outputs; outputs are padded with zeros.
struct Matrix {
    int64_t inputs = 0, outputs = 0, padded = 0;
    int64_t groups = 0;        // Of four inputs, in 8 bits.
    Buffer<float> weights;     // [padded / NR, inputs, NR]
    Buffer<int8_t> codes;      // [padded / NR, groups, NR, 4]
    Buffer<int32_t> sums;      // [padded]: of an output's codes, which the code of zero multiplies.
    Buffer<float> scales;      // [padded]
    Buffer<float> bias;        // [padded]

    bool is_int8() const { return bool(codes); }
    int64_t panels() const { return padded / NR; }
};

// Weights `[outputs, inputs]` with `stride` numbers from one output to the next and `step` from input to input.
inline Matrix make_matrix(const float* weights, const float* bias, int64_t outputs, int64_t inputs, bool int8,
                          int64_t stride, int64_t step = 1, float factor = 1.0f, int64_t scaled_outputs = 0) {
    Matrix matrix;
    matrix.inputs = inputs;
    matrix.outputs = outputs;
    matrix.padded = rounded_up(outputs, NR);
    float* padded_bias = matrix.bias.grow(matrix.padded);
    std::fill(padded_bias, padded_bias + matrix.padded, 0.0f);
    const auto factor_of = [&](int64_t output) { return output < scaled_outputs ? factor : 1.0f; };
    for (int64_t output = 0; bias && output < outputs; output++) padded_bias[output] = bias[output] * factor_of(output);
    if (!int8) {
        float* to = matrix.weights.grow(matrix.padded * inputs);
        std::fill(to, to + matrix.padded * inputs, 0.0f);
        for (int64_t output = 0; output < outputs; output++) {
            float* column = to + output / NR * inputs * NR + output % NR;
            for (int64_t input = 0; input < inputs; input++) {
                column[input * NR] = weights[output * stride + input * step] * factor_of(output);
            }
        }
        return matrix;
    }
    matrix.groups = (inputs + 3) / 4;
    const int64_t bytes = matrix.padded * matrix.groups * 4;
    int8_t* codes = matrix.codes.grow(bytes);
    std::fill(codes, codes + bytes, static_cast<int8_t>(0));
    int32_t* sums = matrix.sums.grow(matrix.padded);
    std::fill(sums, sums + matrix.padded, 0);
    float* scales = matrix.scales.grow(matrix.padded);
    std::fill(scales, scales + matrix.padded, 0.0f);
    for (int64_t output = 0; output < outputs; output++) {
        const float* row = weights + output * stride;
        float largest = 0.0f;
        for (int64_t input = 0; input < inputs; input++) largest = std::max(largest, std::fabs(row[input * step]));
        largest = std::max(largest, 1.17549435e-38f);
        const float scale = largest / LARGEST_CODE, stored = largest / LARGEST_STORED_CODE;
        int8_t* column = codes + output / NR * matrix.groups * NR * 4 + output % NR * 4;
        int32_t total = 0;
        for (int64_t input = 0; input < inputs; input++) {
            // As if it came from a file, so that a model in memory and its folder agree.
            const float value = std::nearbyint(row[input * step] / stored) * stored;
            const float code = std::nearbyint(value / scale);
            const int whole = static_cast<int>(std::min(std::max(code, -1.0f * LARGEST_CODE), 1.0f * LARGEST_CODE));
            column[input / 4 * NR * 4 + input % 4] = static_cast<int8_t>(whole);
            total += whole;
        }
        scales[output] = scale * factor_of(output);
        sums[output] = total;
    }
    return matrix;
}

constexpr int64_t LINE = 64;  // Bytes that memory gives at a time.

template <int NUMBER>
using Number = std::integral_constant<int, NUMBER>;

// Asks for LINES lines of memory, the next ones at each step.
template <int LINES>
inline void fetch(const char* from, int64_t step) {
    for (int line = 0; line < LINES; line++) __builtin_prefetch(from + (step * LINES + line) * LINE, 0, 2);
}

// Full tiles that together fetch what lies from `ahead` to `end`; gives the rows that they took.
template <int LINES, class Tile>
inline int64_t run_fetching(int64_t rows, int64_t steps, const char* ahead, const char* end, const Tile& tile) {
    int64_t row = 0;
    for (; row + MR <= rows && ahead < end; row += MR, ahead += steps * LINES * LINE) {
        tile(Number<MR>(), Number<LINES>(), row, ahead);
    }
    return row;
}

template <int LINES, class Tile>
inline void run_remainder(int64_t rows, int64_t row, const char* ahead, const Tile& tile) {
    switch (rows - row) {
        case 1: return tile(Number<1>(), Number<LINES>(), row, ahead);
        case 2: return tile(Number<2>(), Number<LINES>(), row, ahead);
        case 3: return tile(Number<3>(), Number<LINES>(), row, ahead);
        case 4: return tile(Number<4>(), Number<LINES>(), row, ahead);
        case 5: return tile(Number<5>(), Number<LINES>(), row, ahead);
        default: return;
    }
}

// All rows of one panel of weights, `steps` long, in tiles: tile(its rows, lines to fetch a step, first row, from where).
//
// Weights come from memory once for each batch, and more slowly than a few rows use them. So the first tiles of one panel
// ask for the panel behind it, one line a step where there are tiles enough; more at a time would wait for each other.
// Behind the last panel they ask in vain, which does no harm.
template <class Tile>
inline void run_tiles(int64_t rows, int64_t steps, const void* panel, const Tile& tile) {
    constexpr int64_t STEP = NR * 4, LINES = (STEP + LINE - 1) / LINE;
    const char* ahead = static_cast<const char*>(panel) + steps * STEP;
    const char* end = ahead + steps * STEP;
    const int64_t tiles = rows / MR;
    if (tiles == 0) return run_remainder<LINES>(rows, 0, ahead, tile);
    int64_t row = tiles >= LINES ? run_fetching<1>(rows, steps, ahead, end, tile)
                  : tiles == 1   ? run_fetching<LINES>(rows, steps, ahead, end, tile)
                                 : run_fetching<(LINES + 1) / 2>(rows, steps, ahead, end, tile);
    for (; row + MR <= rows; row += MR) tile(Number<MR>(), Number<0>(), row, ahead);
    run_remainder<0>(rows, row, ahead, tile);
}

// C[rows, V * W] = A[rows, inner] @ B, where B is a panel [inner, V * W].
template <int ROWS, int V, int LINES>
inline void multiply_tile(const float* a, int64_t a_stride, const float* b, int64_t inner, float* c, int64_t c_stride,
                          const char* ahead) {
    Vec sums[ROWS][V];
    for (int row = 0; row < ROWS; row++) {
        for (int v = 0; v < V; v++) sums[row][v] = splat(0.0f);
    }
    for (int64_t k = 0; k < inner; k++) {
        Vec right[V];
        for (int v = 0; v < V; v++) right[v] = load(b + (k * V + v) * W);
        fetch<LINES>(ahead, k);
        for (int row = 0; row < ROWS; row++) {
            const Vec left = splat(a[row * a_stride + k]);
            for (int v = 0; v < V; v++) sums[row][v] += left * right[v];
        }
    }
    for (int row = 0; row < ROWS; row++) {
        for (int v = 0; v < V; v++) store(c + row * c_stride + v * W, sums[row][v]);
    }
}

template <int V>
inline void multiply_rows(int64_t rows, const float* a, int64_t a_stride, const float* b, int64_t inner, float* c,
                          int64_t c_stride) {
    run_tiles(rows, inner, b, [&](auto size, auto lines, int64_t row, const char* ahead) {
        multiply_tile<size, V, lines>(a + row * a_stride, a_stride, b, inner, c + row * c_stride, c_stride, ahead);
    });
}

// Activations in 8 bits: each row has a scale, and the code that stands for 0.
struct Codes {
    Buffer<uint8_t> bytes;  // [rows, 4 * groups]
    Buffer<float> scales;   // [rows]
    Buffer<int32_t> zeros;  // [rows]
};

inline void quantize_row(const float* from, int64_t count, int64_t groups, uint8_t* to, float* scale, int32_t* zero) {
    Vec highest = splat(0.0f), lowest = splat(0.0f);
    int64_t i = 0;
    for (; i + W <= count; i += W) {
        highest = larger(highest, load(from + i));
        lowest = smaller(lowest, load(from + i));
    }
    float most = largest_of(highest), least = -largest_of(-lowest);
    for (; i < count; i++) {
        most = std::max(most, from[i]);
        least = std::min(least, from[i]);
    }
    *scale = std::max((most - least) * (1.0f / STEPS), SMALLEST_SCALE);
    const float inverse = 1.0f / *scale;
    *zero = static_cast<int32_t>(std::nearbyint(-least * inverse));
    const float shift = ROUNDER + static_cast<float>(*zero);
    for (i = 0; i + W <= count; i += W) {
        // A fused multiply-add may find the smallest number half a step lower than `zero` was rounded from.
        const Vec shifted = larger(load(from + i) * splat(inverse) + splat(shift), splat(ROUNDER));
        const Ints low = reinterpret_cast<Ints>(shifted) & splat_int(255);
        *reinterpret_cast<BytesAt*>(to + i) = __builtin_convertvector(low, BytesAt);
    }
    for (; i < count; i++) {
        const float shifted = std::max(from[i] * inverse + shift, ROUNDER);
        int32_t bits;
        std::memcpy(&bits, &shifted, sizeof bits);
        to[i] = static_cast<uint8_t>(bits & 255);
    }
    for (; i < 4 * groups; i++) to[i] = 0;
}

template <int ROWS, int LINES>
inline void multiply_codes_tile(const Codes& codes, int64_t first_row, const Matrix& matrix, int64_t panel, float* c,
                                int64_t c_stride, const char* ahead) {
    const int64_t a_stride = 4 * matrix.groups, column = panel * NR;
    const uint8_t* a = codes.bytes.get() + first_row * a_stride;
    const int8_t* b = matrix.codes.get() + panel * matrix.groups * NR * 4;
    Ints products[ROWS][NV];
    for (int row = 0; row < ROWS; row++) {
        for (int v = 0; v < NV; v++) products[row][v] = splat_int(0);
    }
    for (int64_t k = 0; k < matrix.groups; k++) {
        Ints right[NV];
        for (int v = 0; v < NV; v++) right[v] = load_ints(b + (k * NR + v * W) * 4);
        fetch<LINES>(ahead, k);
        for (int row = 0; row < ROWS; row++) {
            int32_t four;
            std::memcpy(&four, a + row * a_stride + 4 * k, sizeof four);
            const Ints left = splat_int(four);
            for (int v = 0; v < NV; v++) products[row][v] = add_products(products[row][v], left, right[v]);
        }
    }
    for (int v = 0; v < NV; v++) {
        const Ints sums = load_ints(matrix.sums.get() + column + v * W);
        const Vec scale = load(matrix.scales.get() + column + v * W);
        const Vec bias = load(matrix.bias.get() + column + v * W);
        for (int row = 0; row < ROWS; row++) {
            const Ints whole = products[row][v] - splat_int(codes.zeros.get()[first_row + row]) * sums;
            const Vec row_scale = splat(codes.scales.get()[first_row + row]);
            store(c + row * c_stride + v * W, to_floats(whole) * row_scale * scale + bias);
        }
    }
}

inline void multiply_codes(int64_t rows, const Codes& codes, const Matrix& matrix, int64_t panel, float* c,
                           int64_t c_stride) {
    const int8_t* weights = matrix.codes.get() + panel * matrix.groups * NR * 4;
    run_tiles(rows, matrix.groups, weights, [&](auto size, auto lines, int64_t row, const char* ahead) {
        multiply_codes_tile<size, lines>(codes, row, matrix, panel, c + row * c_stride, c_stride, ahead);
    });
}

enum class Activation { NONE, GELU, GELU_TANH, RELU, SILU, TANH };

template <class Function>
inline void change_block(float* block, int64_t stride, int64_t rows, const float* bias, const Function& function) {
    for (int64_t row = 0; row < rows; row++) {
        for (int v = 0; v < NV; v++) {
            float* at = block + row * stride + v * W;
            store(at, function(bias ? load(at) + load(bias + v * W) : load(at)));
        }
    }
}

// Bias and activation on rows of one panel, while they are in cache.
inline void activate_block(float* block, int64_t stride, int64_t rows, const float* bias, Activation activation) {
    switch (activation) {
        case Activation::NONE:
            if (bias) change_block(block, stride, rows, bias, [](Vec x) { return x; });
            return;
        case Activation::GELU: return change_block(block, stride, rows, bias, gelu);
        case Activation::GELU_TANH: return change_block(block, stride, rows, bias, gelu_by_tanh);
        case Activation::RELU:
            return change_block(block, stride, rows, bias, [](Vec x) { return larger(x, splat(0.0f)); });
        case Activation::SILU: return change_block(block, stride, rows, bias, silu);
        case Activation::TANH: return change_block(block, stride, rows, bias, hyperbolic_tangent);
    }
}

// Rows of a product that are computed at a time: their activations stay in the nearest caches.
constexpr int64_t ROW_BLOCK = 96;

// The panels [first, last) of activation(a @ matrix + bias), for rows whose codes are given in 8 bits.
inline void multiply_panels(const Matrix& matrix, int64_t rows, const float* a, int64_t a_stride, const Codes* codes,
                            float* c, int64_t c_stride, Activation activation, int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; panel++) {
        float* block = c + panel * NR;
        if (matrix.is_int8()) {
            multiply_codes(rows, *codes, matrix, panel, block, c_stride);
            activate_block(block, c_stride, rows, nullptr, activation);
        } else {
            multiply_rows<NV>(rows, a, a_stride, matrix.weights.get() + panel * matrix.inputs * NR, matrix.inputs,
                              block, c_stride);
            activate_block(block, c_stride, rows, matrix.bias.get() + panel * NR, activation);
        }
    }
}

// c[rows, matrix.padded] = activation(a[rows, matrix.inputs] @ matrix + bias). With a team the columns are shared.
inline void apply_linear(const Matrix& matrix, int64_t rows, const float* a, int64_t a_stride, float* c,
                         int64_t c_stride, Activation activation, Codes& codes, magic_pyramid::Pool* team = nullptr) {
    if (rows == 0) return;
    if (matrix.is_int8()) {
        uint8_t* bytes = codes.bytes.grow(rows * 4 * matrix.groups);
        float* scales = codes.scales.grow(rows);
        int32_t* zeros = codes.zeros.grow(rows);
        for (int64_t row = 0; row < rows; row++) {
            quantize_row(a + row * a_stride, matrix.inputs, matrix.groups, bytes + row * 4 * matrix.groups,
                         scales + row, zeros + row);
        }
    }
    const int64_t panels = matrix.panels();
    const int parts = team ? static_cast<int>(std::min<int64_t>(team->threads(), panels)) : 1;
    if (parts == 1) {
        multiply_panels(matrix, rows, a, a_stride, &codes, c, c_stride, activation, 0, panels);
        return;
    }
    team->run(parts, [&](int part) {
        multiply_panels(matrix, rows, a, a_stride, &codes, c, c_stride, activation, panels * part / parts,
                        panels * (part + 1) / parts);
    });
}

}  // namespace
