// Eight floats as two NEON vectors (64-bit Arm). Included by vec8.h inside the namespace of the
// instruction set; <arm_neon.h> comes before that. Every operation rounds as its AVX2 counterpart
// does, sums in the same order and treats NaN alike, so both give the same bits.

struct F8 { float32x4_t lo, hi; };
struct M8 { uint32x4_t lo, hi; };

inline F8 set1(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline F8 load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline void store(float* p, F8 a) { vst1q_f32(p, a.lo), vst1q_f32(p + 4, a.hi); }
inline F8 operator+(F8 a, F8 b) { return {vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
inline F8 operator-(F8 a, F8 b) { return {vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)}; }
inline F8 operator*(F8 a, F8 b) { return {vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)}; }
inline F8 operator/(F8 a, F8 b) { return {vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)}; }
inline F8 fma(F8 a, F8 b, F8 c) { return {vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)}; }   // a b + c
inline F8 fnma(F8 a, F8 b, F8 c) { return {vfmsq_f32(c.lo, a.lo, b.lo), vfmsq_f32(c.hi, a.hi, b.hi)}; }  // c - a b
inline M8 operator<=(F8 a, F8 b) { return {vcleq_f32(a.lo, b.lo), vcleq_f32(a.hi, b.hi)}; }
inline M8 operator>(F8 a, F8 b) { return {vcgtq_f32(a.lo, b.lo), vcgtq_f32(a.hi, b.hi)}; }
inline M8 operator&(M8 a, M8 b) { return {vandq_u32(a.lo, b.lo), vandq_u32(a.hi, b.hi)}; }
inline M8 without(M8 a, M8 b) { return {vbicq_u32(a.lo, b.lo), vbicq_u32(a.hi, b.hi)}; }  // a and not b
inline F8 select(M8 m, F8 a, F8 b) { return {vbslq_f32(m.lo, a.lo, b.lo), vbslq_f32(m.hi, a.hi, b.hi)}; }
inline F8 keep(F8 a, M8 m) {  // a where m, else 0
  return {vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a.lo), m.lo)),
          vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a.hi), m.hi))};
}
// The second operand where one is NaN, as on x86; vminq would yield the NaN.
inline F8 min(F8 a, F8 b) { return select(b > a, a, b); }
inline F8 max(F8 a, F8 b) { return select(a > b, a, b); }
inline F8 sqrt(F8 a) { return {vsqrtq_f32(a.lo), vsqrtq_f32(a.hi)}; }
inline F8 round(F8 a) { return {vrndnq_f32(a.lo), vrndnq_f32(a.hi)}; }
inline F8 pow2(F8 n) {  // 2^n for integral n in the normal range
  const int32x4_t bias = vdupq_n_s32(127);
  return {vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.lo), bias), 23)),
          vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.hi), bias), 23))};
}
inline int bits(M8 m) {
  const uint32_t place[4] = {1, 2, 4, 8};
  const uint32x4_t places = vld1q_u32(place);
  return static_cast<int>(vaddvq_u32(vandq_u32(m.lo, places)) | vaddvq_u32(vandq_u32(m.hi, places)) << 4);
}
inline float lowest(F8 a) { return vminvq_f32(vminq_f32(a.lo, a.hi)); }
inline float highest(F8 a) { return vmaxvq_f32(vmaxq_f32(a.lo, a.hi)); }
// The sums of four vectors: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)) of each.
inline float32x4_t reduce4(const F8* a) {
  const float32x4_t lo = vpaddq_f32(vpaddq_f32(a[0].lo, a[1].lo), vpaddq_f32(a[2].lo, a[3].lo));
  const float32x4_t hi = vpaddq_f32(vpaddq_f32(a[0].hi, a[1].hi), vpaddq_f32(a[2].hi, a[3].hi));
  return vaddq_f32(lo, hi);
}
// The sums of eight vectors, one per lane.
inline F8 reduce8(const F8* a) { return {reduce4(a), reduce4(a + 4)}; }
// Adds the sums of four vectors to p[0..3].
inline void add4(float* p, const F8* a) { vst1q_f32(p, vaddq_f32(vld1q_f32(p), reduce4(a))); }
