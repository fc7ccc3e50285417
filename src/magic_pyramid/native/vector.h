// Vectors of W floats, in the widest registers that this file is compiled for.
//
// GCC's and Clang's vector types give the arithmetic on every processor; only the 8-bit product needs the
// processor's own instructions. Everything here has internal linkage: the same code is compiled several times
// with different instruction sets, and the linker must not mix them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define MP_WIDTH 16
#define MP_VECTORS 4  // Vectors side by side in a tile: 6 x 4 sums and 4 weights fit into 32 registers.
#elif defined(__AVX2__)
#define MP_WIDTH 8
#define MP_VECTORS 2  // 6 x 2 sums and 2 weights fit into 16 registers.
#else
#define MP_WIDTH 4
#define MP_VECTORS 2
#endif

namespace {

constexpr int W = MP_WIDTH;
constexpr int NV = MP_VECTORS;
constexpr int NR = W * NV;  // Columns of a tile.
constexpr int MR = 6;       // Rows of a tile.

typedef float Vec __attribute__((vector_size(4 * MP_WIDTH)));
typedef int32_t Ints __attribute__((vector_size(4 * MP_WIDTH)));
typedef float VecAt __attribute__((vector_size(4 * MP_WIDTH), aligned(4), may_alias));
typedef int32_t IntsAt __attribute__((vector_size(4 * MP_WIDTH), aligned(4), may_alias));
typedef uint8_t BytesAt __attribute__((vector_size(MP_WIDTH), aligned(1), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const VecAt*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<VecAt*>(to) = value; }
inline Ints load_ints(const void* from) { return *reinterpret_cast<const IntsAt*>(from); }

inline Vec splat(float value) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec>(_mm512_set1_ps(value));
#elif defined(__AVX2__)
    return reinterpret_cast<Vec>(_mm256_set1_ps(value));
#else
    return Vec{value, value, value, value};
#endif
}

inline Ints splat_int(int32_t value) {
#if defined(__AVX512F__)
    return reinterpret_cast<Ints>(_mm512_set1_epi32(value));
#elif defined(__AVX2__)
    return reinterpret_cast<Ints>(_mm256_set1_epi32(value));
#else
    return Ints{value, value, value, value};
#endif
}

inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }
inline Vec magnitude(Vec a) { return larger(a, -a); }
inline Vec to_floats(Ints a) { return __builtin_convertvector(a, Vec); }

// The lanes in another order, which are one exchange away from a sum or a maximum over all of them.
#if !defined(__clang__) && __GNUC__ < 12
#define MP_SHUFFLE(v, ...) __builtin_shuffle(v, Ints{__VA_ARGS__})
#else
#define MP_SHUFFLE(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#endif
#if MP_WIDTH == 16
#define MP_SWAP_EIGHTHS(v) MP_SHUFFLE(v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
#define MP_SWAP_FOURTHS(v) MP_SHUFFLE(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)
#define MP_SWAP_PAIRS(v) MP_SHUFFLE(v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
#define MP_SWAP_SINGLES(v) MP_SHUFFLE(v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)
#elif MP_WIDTH == 8
#define MP_SWAP_FOURTHS(v) MP_SHUFFLE(v, 4, 5, 6, 7, 0, 1, 2, 3)
#define MP_SWAP_PAIRS(v) MP_SHUFFLE(v, 2, 3, 0, 1, 6, 7, 4, 5)
#define MP_SWAP_SINGLES(v) MP_SHUFFLE(v, 1, 0, 3, 2, 5, 4, 7, 6)
#else
#define MP_SWAP_PAIRS(v) MP_SHUFFLE(v, 2, 3, 0, 1)
#define MP_SWAP_SINGLES(v) MP_SHUFFLE(v, 1, 0, 3, 2)
#endif

template <class Combine>
inline float over_lanes(Vec a, const Combine& combine) {
#if MP_WIDTH == 16
    a = combine(a, Vec(MP_SWAP_EIGHTHS(a)));
#endif
#if MP_WIDTH >= 8
    a = combine(a, Vec(MP_SWAP_FOURTHS(a)));
#endif
    a = combine(a, Vec(MP_SWAP_PAIRS(a)));
    a = combine(a, Vec(MP_SWAP_SINGLES(a)));
    return a[0];
}

inline float sum_of(Vec a) {
    return over_lanes(a, [](Vec x, Vec y) { return x + y; });
}

inline float largest_of(Vec a) { return over_lanes(a, larger); }

// The first `count` lanes, and zeros.
inline Vec first_lanes(Vec a, int64_t count) {
    Ints lanes;
    for (int i = 0; i < W; i++) lanes[i] = i;
    return lanes < splat_int(static_cast<int32_t>(count)) ? a : splat(0.0f);
}

// Adding this rounds to a whole number, ties to even, which then is the low part of the bits.
constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23

// e to the power of x, to 2 units in the last place; below -87 it is e to the power of -87.
inline Vec exponential(Vec x) {
    x = larger(x, splat(-87.0f));
    const Vec shifted = x * splat(1.44269504f) + splat(ROUNDER);
    const Vec whole = shifted - splat(ROUNDER);
    const Vec rest = (x - whole * splat(0.693359375f)) - whole * splat(-2.12194440e-4f);
    Vec series = splat(1.9875691500e-4f);
    series = series * rest + splat(1.3981999507e-3f);
    series = series * rest + splat(8.3334519073e-3f);
    series = series * rest + splat(4.1665795894e-2f);
    series = series * rest + splat(1.6666665459e-1f);
    series = series * rest + splat(5.0000001201e-1f);
    series = series * (rest * rest) + (rest + splat(1.0f));
    const Ints power = (reinterpret_cast<Ints>(shifted) << 23) + splat_int(0x3f800000);
    return series * reinterpret_cast<Vec>(power);
}

inline Vec hyperbolic_tangent(Vec x) {
    const Vec doubled = smaller(x + x, splat(60.0f));
    return splat(1.0f) - splat(2.0f) / (exponential(doubled) + splat(1.0f));
}

// Abramowitz and Stegun 7.1.26: the error function to 1.5e-7, from its size and the sign of x.
inline Vec gelu(Vec x) {
    const Vec size = magnitude(x) * splat(0.70710678f);
    const Vec t = splat(1.0f) / (splat(1.0f) + splat(0.3275911f) * size);
    Vec series = splat(1.061405429f);
    series = series * t + splat(-1.453152027f);
    series = series * t + splat(1.421413741f);
    series = series * t + splat(-0.284496736f);
    series = series * t + splat(0.254829592f);
    // 1 - erf(size); where it is next to nothing it is kept from becoming a denormal number, which is slow.
    const Vec tail = series * t * exponential(larger(-(size * size), splat(-75.0f)));
    const Vec half = splat(0.5f) * x;
    return x > splat(0.0f) ? x - half * tail : half * tail;
}

inline Vec gelu_by_tanh(Vec x) {
    const Vec inner = splat(0.79788456f) * (x + splat(0.044715f) * x * x * x);
    return splat(0.5f) * x * (splat(1.0f) + hyperbolic_tangent(inner));
}

inline Vec silu(Vec x) { return x / (splat(1.0f) + exponential(smaller(-x, splat(80.0f)))); }

// Weights in 8 bits lie between minus and plus this. The AVX2 product adds two of them in 16 bits, which
// 2 * 255 * 64 = 32,640 fits into.
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
constexpr int LARGEST_CODE = 64;
#else
constexpr int LARGEST_CODE = 127;
#endif

// Files hold weights in 8 bits on every processor.
constexpr int LARGEST_STORED_CODE = 127;

// Sums of four products of bytes each: unsigned activations, signed weights.
inline Ints add_products(Ints sums, Ints activations, Ints weights) {
#if defined(__AVX512VNNI__)
    return reinterpret_cast<Ints>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sums),
                                                      reinterpret_cast<__m512i>(activations),
                                                      reinterpret_cast<__m512i>(weights)));
#elif defined(__AVX2__) && !defined(__AVX512F__)
    const __m256i pairs = _mm256_maddubs_epi16(reinterpret_cast<__m256i>(activations),
                                               reinterpret_cast<__m256i>(weights));
    return sums + reinterpret_cast<Ints>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
    const uint8_t* left = reinterpret_cast<const uint8_t*>(&activations);
    const int8_t* right = reinterpret_cast<const int8_t*>(&weights);
    for (int i = 0; i < W; i++) {
        for (int part = 0; part < 4; part++) sums[i] += left[4 * i + part] * right[4 * i + part];
    }
    return sums;
#endif
}

}  // namespace
