// Whole vectors of float32, and numbers of both precisions: what the kernels share.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
constexpr int WIDTH = 16;
#elif defined(__AVX__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif
typedef float Vector __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

static inline int padded(int n) { return (n + WIDTH - 1) / WIDTH * WIDTH; }
static inline Vector& at(float* p) { return *reinterpret_cast<Vector*>(p); }
static inline const Vector& at(const float* p) { return *reinterpret_cast<const Vector*>(p); }

// e^x to 2 units in the last place for x <= 87; 0 below -87.
static inline Vector exponential(Vector x) {
    const Integers is_low = x < -87.0f;
    Vector shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23 leaves the nearest integer in the lowest bits
    const Integers whole = reinterpret_cast<Integers&>(shifted) - 0x4B400000;
    shifted -= 12582912.0f;
    x = x - shifted * 0.693359375f + shifted * 2.12194440e-4f;
    Vector y = Vector{} + 1.9875691500e-4f;
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * x * x + x + 1.0f;
    Integers power = (whole + 127) << 23;
    y *= reinterpret_cast<Vector&>(power);
    return is_low ? Vector{} : y;
}

struct Bfloat16 {
    uint16_t bits;
};
static inline float wide(float x) { return x; }
static inline float wide(Bfloat16 x) {
    const uint32_t bits = (uint32_t)x.bits << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}
static inline void narrow(float x, float* to) { *to = x; }
static inline void narrow(float x, Bfloat16* to) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    to->bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;  // to the nearest, ties to even
}

// Numbers to and from whole vectors; of the last vector of a row only the first `n` are there, and zeros behind them.
typedef uint16_t Halves __attribute__((vector_size(WIDTH * 2), aligned(2), may_alias));
typedef uint32_t Words __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
struct Whole {
    static constexpr int n = WIDTH;
};
struct Part {
    int n;
};

static inline Vector load(const float* from, Whole) { return at(from); }
static inline Vector load(const float* from, Part part) {
    Vector x{};
    std::memcpy(&x, from, part.n * sizeof(float));
    return x;
}
template <class Extent>
static inline Vector load(const Bfloat16* from, Extent extent) {
    Halves bits{};
    std::memcpy(&bits, from, extent.n * sizeof(Bfloat16));
    const Words words = __builtin_convertvector(bits, Words) << 16;
    return (Vector)words;
}
template <class Extent>
static inline void store(Vector x, float* to, Extent extent) {
    std::memcpy(to, &x, extent.n * sizeof(float));
}
template <class Extent>
static inline void store(Vector x, Bfloat16* to, Extent extent) {
#ifdef __AVX512BF16__
    const __m256bh bits = _mm512_cvtneps_pbh((__m512)x);  // rounds as below; what is no normal number becomes zero
#else
    const Words words = (Words)x;
    const Halves bits = __builtin_convertvector((words + 0x7FFF + ((words >> 16) & 1)) >> 16, Halves);
#endif
    std::memcpy(to, &bits, extent.n * sizeof(Bfloat16));
}

// work(j, extent) for every vector of a row of n numbers, from j on.
template <class Work>
static inline __attribute__((always_inline)) void along(int n, Work work) {
    int j = 0;
    for (; j + WIDTH <= n; j += WIDTH) work(j, Whole{});
    if (j < n) work(j, Part{n - j});
}

// Lanes of two vectors, numbered through: one shuffle.
template <int... LANE>
static inline Vector shuffled(Vector a, Vector b, std::integer_sequence<int, LANE...>) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, LANE...);
#else
    return __builtin_shuffle(a, b, Integers{LANE...});
#endif
}

// What joins all numbers of a vector: its halves, their halves and so on.
template <int HALF = WIDTH / 2, class Join, int... LANE>
static inline float joined(Vector x, Join join, std::integer_sequence<int, LANE...> lanes) {
    x = join(x, shuffled(x, x, std::integer_sequence<int, (LANE ^ HALF)...>()));
    if constexpr (HALF > 1) return joined<HALF / 2>(x, join, lanes);
    return x[0];
}
static inline float sum(Vector x) {
    return joined(x, [](Vector a, Vector b) { return a + b; }, std::make_integer_sequence<int, WIDTH>());
}
static inline float largest(Vector x) {
    return joined(x, [](Vector a, Vector b) { return a > b ? a : b; }, std::make_integer_sequence<int, WIDTH>());
}

// Rows i and i + STEP of a square with their lanes l + STEP and l exchanged, for every l without STEP's bit.
template <int STEP, int... LANE>
static inline void exchange(Vector& upper, Vector& lower, std::integer_sequence<int, LANE...>) {
    const Vector a = upper, b = lower;
    upper = shuffled(a, b, std::integer_sequence<int, (LANE & STEP ? WIDTH + LANE - STEP : LANE)...>());
    lower = shuffled(a, b, std::integer_sequence<int, (LANE & STEP ? WIDTH + LANE : LANE + STEP)...>());
}
template <int STEP = 1>
static inline void turn(Vector (&square)[WIDTH]) {  // rows become columns
    for (int i = 0; i < WIDTH; i++)
        if (!(i & STEP)) exchange<STEP>(square[i], square[i + STEP], std::make_integer_sequence<int, WIDTH>());
    if constexpr (2 * STEP < WIDTH) turn<2 * STEP>(square);
}
