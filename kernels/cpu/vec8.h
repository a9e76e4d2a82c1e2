// Eight floats: AVX2 + FMA or NEON where the translation unit asks for it (F3D_AVX2, F3D_NEON), plain
// loops elsewhere, which compilers turn into SSE2. Included only by the blend_*.cpp units, inside the
// namespace of their instruction set.
#pragma once

#if F3D_AVX2
#include <immintrin.h>
#elif F3D_NEON
#include <arm_neon.h>
#endif

namespace fit3d {
namespace F3D_ISA {
namespace {

#if F3D_AVX2

struct F8 { __m256 v; };
struct M8 { __m256 v; };

inline F8 set1(float x) { return {_mm256_set1_ps(x)}; }
inline F8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, F8 a) { _mm256_storeu_ps(p, a.v); }
inline F8 operator+(F8 a, F8 b) { return {_mm256_add_ps(a.v, b.v)}; }
inline F8 operator-(F8 a, F8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline F8 operator*(F8 a, F8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline F8 operator/(F8 a, F8 b) { return {_mm256_div_ps(a.v, b.v)}; }
inline F8 fma(F8 a, F8 b, F8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }    // a b + c
inline F8 fnma(F8 a, F8 b, F8 c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a b
inline F8 min(F8 a, F8 b) { return {_mm256_min_ps(a.v, b.v)}; }
inline F8 max(F8 a, F8 b) { return {_mm256_max_ps(a.v, b.v)}; }
inline F8 sqrt(F8 a) { return {_mm256_sqrt_ps(a.v)}; }
inline F8 round(F8 a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline F8 pow2(F8 n) {  // 2^n for integral n in the normal range
  return {_mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23))};
}
inline M8 operator<=(F8 a, F8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
inline M8 operator>(F8 a, F8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
inline M8 operator&(M8 a, M8 b) { return {_mm256_and_ps(a.v, b.v)}; }
inline M8 without(M8 a, M8 b) { return {_mm256_andnot_ps(b.v, a.v)}; }  // a and not b
inline F8 keep(F8 a, M8 m) { return {_mm256_and_ps(a.v, m.v)}; }       // a where m, else 0
inline F8 select(M8 m, F8 a, F8 b) { return {_mm256_blendv_ps(b.v, a.v, m.v)}; }
inline int bits(M8 m) { return _mm256_movemask_ps(m.v); }
// The sums of eight vectors, one per lane.
inline F8 reduce8(const F8* a) {
  const __m256 s01 = _mm256_hadd_ps(a[0].v, a[1].v), s23 = _mm256_hadd_ps(a[2].v, a[3].v);
  const __m256 s45 = _mm256_hadd_ps(a[4].v, a[5].v), s67 = _mm256_hadd_ps(a[6].v, a[7].v);
  const __m256 lo = _mm256_hadd_ps(s01, s23), hi = _mm256_hadd_ps(s45, s67);
  return {_mm256_add_ps(_mm256_permute2f128_ps(lo, hi, 0x20), _mm256_permute2f128_ps(lo, hi, 0x31))};
}
inline float lowest(F8 a) {
  __m128 m = _mm_min_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  m = _mm_min_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_min_ss(m, _mm_shuffle_ps(m, m, 1)));
}
inline float highest(F8 a) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}
// Adds the sums of four vectors to p[0..3].
inline void add4(float* p, const F8* a) {
  const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a[0].v, a[1].v), _mm256_hadd_ps(a[2].v, a[3].v));
  const __m128 sum = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  _mm_storeu_ps(p, _mm_add_ps(_mm_loadu_ps(p), sum));
}

#elif F3D_NEON

#include "vec8_neon.h"

#else

struct F8 { float v[8]; };
struct M8 { uint32_t v[8]; };

#define F3D_EACH for (int i = 0; i < 8; ++i)
inline F8 set1(float x) { F8 r; F3D_EACH r.v[i] = x; return r; }
inline F8 load(const float* p) { F8 r; F3D_EACH r.v[i] = p[i]; return r; }
inline void store(float* p, F8 a) { F3D_EACH p[i] = a.v[i]; }
inline F8 operator+(F8 a, F8 b) { F3D_EACH a.v[i] += b.v[i]; return a; }
inline F8 operator-(F8 a, F8 b) { F3D_EACH a.v[i] -= b.v[i]; return a; }
inline F8 operator*(F8 a, F8 b) { F3D_EACH a.v[i] *= b.v[i]; return a; }
inline F8 operator/(F8 a, F8 b) { F3D_EACH a.v[i] /= b.v[i]; return a; }
inline F8 fma(F8 a, F8 b, F8 c) { F3D_EACH c.v[i] += a.v[i] * b.v[i]; return c; }
inline F8 fnma(F8 a, F8 b, F8 c) { F3D_EACH c.v[i] -= a.v[i] * b.v[i]; return c; }
inline F8 min(F8 a, F8 b) { F3D_EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F8 max(F8 a, F8 b) { F3D_EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F8 sqrt(F8 a) { F3D_EACH a.v[i] = sqrtf(a.v[i]); return a; }
inline F8 round(F8 a) {  // adding 1.5 * 2^23 leaves no fraction bits
  F3D_EACH a.v[i] = (a.v[i] + 12582912.0f) - 12582912.0f;
  return a;
}
inline F8 pow2(F8 n) {
  F3D_EACH {
    const uint32_t word = static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23;
    __builtin_memcpy(&n.v[i], &word, 4);
  }
  return n;
}
inline M8 operator<=(F8 a, F8 b) { M8 m; F3D_EACH m.v[i] = a.v[i] <= b.v[i]; return m; }
inline M8 operator>(F8 a, F8 b) { M8 m; F3D_EACH m.v[i] = a.v[i] > b.v[i]; return m; }
inline M8 operator&(M8 a, M8 b) { F3D_EACH a.v[i] &= b.v[i]; return a; }
inline M8 without(M8 a, M8 b) { F3D_EACH a.v[i] &= b.v[i] ^ 1u; return a; }
inline F8 keep(F8 a, M8 m) { F3D_EACH a.v[i] = m.v[i] ? a.v[i] : 0.0f; return a; }
inline F8 select(M8 m, F8 a, F8 b) { F3D_EACH a.v[i] = m.v[i] ? a.v[i] : b.v[i]; return a; }
inline int bits(M8 m) { int r = 0; F3D_EACH r |= static_cast<int>(m.v[i]) << i; return r; }
inline F8 reduce8(const F8* a) {
  F8 r;
  for (int j = 0; j < 8; ++j)
    r.v[j] = ((a[j].v[0] + a[j].v[1]) + (a[j].v[2] + a[j].v[3])) +
             ((a[j].v[4] + a[j].v[5]) + (a[j].v[6] + a[j].v[7]));
  return r;
}
inline float lowest(F8 a) {
  F3D_EACH a.v[0] = a.v[i] < a.v[0] ? a.v[i] : a.v[0];
  return a.v[0];
}
inline float highest(F8 a) {
  F3D_EACH a.v[0] = a.v[i] > a.v[0] ? a.v[i] : a.v[0];
  return a.v[0];
}
inline void add4(float* p, const F8* a) {
  for (int j = 0; j < 4; ++j)
    p[j] += ((a[j].v[0] + a[j].v[1]) + (a[j].v[2] + a[j].v[3])) +
            ((a[j].v[4] + a[j].v[5]) + (a[j].v[6] + a[j].v[7]));
}
#undef F3D_EACH

#endif

inline void prefetch(const float* p) { __builtin_prefetch(p); }
inline void prefetch_to_write(const float* p) { __builtin_prefetch(p, 1); }

// e^x for x in [-87, 0]: Cody-Waite reduction, then a degree-7 series on |f| <= ln2 / 2, whose
// truncation (5e-9) is below float rounding.
inline F8 exp8(F8 x) {
  const F8 n = round(x * set1(1.44269504088896341f));
  F8 f = fnma(n, set1(0.693359375f), x);
  f = fnma(n, set1(-2.12194440e-4f), f);
  F8 p = set1(1.0f / 5040);
  p = fma(p, f, set1(1.0f / 720));
  p = fma(p, f, set1(1.0f / 120));
  p = fma(p, f, set1(1.0f / 24));
  p = fma(p, f, set1(1.0f / 6));
  p = fma(p, f, set1(0.5f));
  p = fma(p, f, set1(1.0f));
  p = fma(p, f, set1(1.0f));
  return p * pow2(n);
}

}  // namespace
}  // namespace F3D_ISA
}  // namespace fit3d
