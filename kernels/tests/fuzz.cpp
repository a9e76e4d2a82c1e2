// Runs the CPU kernels over seeded degenerate scenes and checks what must hold for each of them.
//
//   fuzz check SCENES SEED          all checks, every instruction set, 1 to 3 threads
//   fuzz dump FILE SCENES SEED ISA  results to a file; ISA is fast or baseline
//   fuzz compare A B                two such files, by the rules of compare.cpp
//   fuzz same A B                   the same, and every bit must be equal
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "chain.h"
#include "compare.h"
#include "fit3d/macros.h"
#include "ops.h"

namespace fit3d {
namespace tests {
namespace {

struct Totals {
  int64_t visible = 0, splats = 0, pixels = 0, safe = 0, gradients = 0;
  double worst_value = 0, worst_gradient = 0;  // as shares of what is allowed
};

uint64_t current_scene = 0;
const char* current_isa = "";

[[noreturn]] void fail(const char* what, double got = 0, double expected = 0) {
  std::fprintf(stderr, "fuzz: scene %" PRIu64 " (%s): %s (got %.9g, expected %.9g)\n  reproduce: fuzz check 1 %" PRIu64 "\n",
               current_scene, current_isa, what, got, expected, current_scene);
  std::exit(1);
}
void demand(bool holds, const char* what, double got = 0, double expected = 0) {
  if (!holds) fail(what, got, expected);
}
template <class T>
void demand_finite(const std::vector<T>& v, const char* what) {
  for (const T x : v) demand(std::isfinite(x), what, x);
}

void check_projection(const Scene& s, const Projection3& p, Totals& totals) {
  const Splats& r = p.splats;
  demand_finite(r.means2d, "means2d"), demand_finite(r.conics, "conics"), demand_finite(r.depths, "depths");
  for (int64_t n = 0; n < s.count; ++n) {
    const bool seen = r.radii[2 * n] > 0;
    demand(seen == (r.radii[2 * n + 1] > 0) && r.radii[2 * n] >= 0, "radii");
    if (seen) {
      ++totals.visible;
      demand(r.depths[n] > s.near_plane && r.depths[n] < s.far_plane, "depth of a visible Gaussian", r.depths[n]);
      demand(r.conics[3 * n] > 0 && r.conics[3 * n + 2] > 0, "conic's diagonal", r.conics[3 * n]);
      demand(s.opacities[n] >= kAlphaMin, "a faint Gaussian is visible", s.opacities[n]);
    } else {
      bool zero = r.depths[n] == 0;
      for (int i = 0; i < 2; ++i) zero = zero && r.means2d[2 * n + i] == 0;
      for (int i = 0; i < 3; ++i) zero = zero && r.conics[3 * n + i] == 0 && p.colors[3 * n + i] == 0;
      demand(zero, "a culled Gaussian has outputs");
    }
  }
}

// Whoever the oracle sees well inside every limit must be seen.
void check_culling(const Scene& s, const Splats& splats) {
  const Splats exact = project_exactly(s);
  for (int64_t n = 0; n < s.count; ++n) {
    if (splats.radii[2 * n] > 0 || exact.radii[2 * n] <= 0) continue;
    const double area = 1 / (double(exact.conics[3 * n]) * exact.conics[3 * n + 2]);
    const double z = exact.depths[n], planes[2] = {s.near_plane, s.far_plane};
    double terms = std::fabs(s.viewmat[11]);
    for (int j = 0; j < 3; ++j) terms += std::fabs(double(s.viewmat[8 + j]) * s.means[3 * n + j]);
    bool inside = area > 1e-6 && std::max(exact.radii[2 * n], exact.radii[2 * n + 1]) < 1000000 && s.opacities[n] > kAlphaMin * 1.001f && terms < 100 * z;
    // Its square must be a float32, and so must its axes before the camera, which need not be a rotation.
    double turn = 0;
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j) turn = std::max(turn, std::fabs(double(s.viewmat[4 * i + j])));
    for (int i = 0; i < 3; ++i) inside = inside && std::fabs(s.scales[3 * n + i]) < 1e19f && turn * std::fabs(s.scales[3 * n + i]) < 1e37;
    for (const double plane : planes) inside = inside && std::fabs(z / plane - 1) > 1e-3;
    for (int i = 0; i < 2; ++i) {
      const double m = exact.means2d[2 * n + i], reach = exact.radii[2 * n + i] - 2 - 1e-2 * (std::fabs(m) + exact.radii[2 * n + i]);
      inside = inside && m + reach > 0 && m - reach < (i ? s.height : s.width);
    }
    demand(!inside, "a Gaussian inside every limit is culled", double(n));
  }
}

// The projection and its adjoint against the oracle and its central differences, for one Gaussian
// that float32 knows well: no needle, no extreme ratio of sizes.
void check_splat(const Scene& s, const Splats& splats, const Upstream3& up, const Leaves& leaves, int64_t n, Totals& totals) {
  double theta[10];  // mean, quat, scale
  float got[10];
  for (int i = 0; i < 10; ++i) {
    const auto& from = i < 3 ? s.means : i < 7 ? s.quats : s.scales;
    const auto& to = i < 3 ? leaves.v_means : i < 7 ? leaves.v_quats : leaves.v_scales;
    const int64_t at = i < 3 ? 3 * n + i : i < 7 ? 4 * n + i - 3 : 3 * n + i - 7;
    theta[i] = from[at], got[i] = to[at];
  }
  const Flat flat = project_one_exactly(s, theta, theta + 3, theta + 7);
  double length = 0, least = 1e30, most = 0;
  for (int i = 3; i < 7; ++i) length += theta[i] * theta[i];
  for (int i = 7; i < 10; ++i) least = std::min(least, std::fabs(theta[i])), most = std::max(most, std::fabs(theta[i]));
  length = std::sqrt(length);
  if (!flat.seen || flat.roundness < 0.05 || most > 30 * least || least < 1e-6 || length < 1e-3 || length > 1e3) return;
  const double shift = std::fabs(theta[0]) + std::fabs(theta[1]) + std::fabs(theta[2]) + 1;
  if (shift > 20 * flat.out[5] || s.K[0] > 1e3f * s.width || s.K[0] < 1e-2f * s.width) return;
  const float out[6] = {splats.means2d[2 * n], splats.means2d[2 * n + 1], splats.conics[3 * n], splats.conics[3 * n + 1],
                        splats.conics[3 * n + 2], splats.depths[n]};
  const double sizes[6] = {s.K[0] + std::fabs(flat.out[0]), s.K[0] + std::fabs(flat.out[1]), flat.out[2],
                           std::sqrt(flat.out[2] * flat.out[4]), flat.out[4], flat.out[5]};
  for (int j = 0; j < 6; ++j)
    demand(std::fabs(out[j] - flat.out[j]) <= 2e-4 * sizes[j], "projection against the oracle", out[j], flat.out[j]);
  const float v[6] = {up.means2d[2 * n], up.means2d[2 * n + 1], up.conics[3 * n], up.conics[3 * n + 1],
                      up.conics[3 * n + 2], up.depths[n]};
  double whole[3] = {}, off[3] = {}, noise[3] = {};  // of the mean, the quaternion and the scales
  for (int i = 0; i < 10; ++i) {
    const double step = 1e-5 * (i < 3 ? flat.out[5] : i < 7 ? length : least);
    double sides[2][10];
    Flat flats[2];
    for (int side = 0; side < 2; ++side) {
      std::copy(theta, theta + 10, sides[side]);
      sides[side][i] += side ? step : -step;
      flats[side] = project_one_exactly(s, sides[side], sides[side] + 3, sides[side] + 7);
      if (!flats[side].seen || flats[side].clamped != flat.clamped) return;  // a kink
    }
    const int group = i < 3 ? 0 : i < 7 ? 1 : 2;
    double exact = 0, size = 0;
    for (int j = 0; j < 6; ++j) {
      noise[group] += std::fabs(v[j]) * (std::fabs(flat.out[j]) + 1) * 1e-15 / step;  // of the differences
      const double term = v[j] * (flats[1].out[j] - flats[0].out[j]) / (2 * step);
      exact += term, size += std::fabs(term);
    }
    whole[group] = std::max(whole[group], size), off[group] = std::max(off[group], std::fabs(got[i] - exact));
  }
  for (int group = 0; group < 3; ++group)
    demand(off[group] <= 2e-3 * whole[group] + noise[group], "the projection's adjoint against differences", off[group], whole[group]);
  ++totals.splats;
}

// Lists: ordered, complete, each pair once.
void check_lists(const Scene& s, const Splats& splats, const Blended& b) {
  size_t visible = 0;
  for (int64_t n = 0; n < s.count; ++n) visible += splats.radii[2 * n] > 0;
  demand(b.order.size() == visible, "number of visible Gaussians", double(b.order.size()), double(visible));
  std::vector<int64_t> rank(s.count, -1);
  for (size_t v = 0; v < visible; ++v) {
    rank[b.order[v]] = int64_t(v);
    if (!v) continue;
    const float before = splats.depths[b.order[v - 1]], here = splats.depths[b.order[v]];
    demand(before < here || (before == here && b.order[v - 1] < b.order[v]), "depth order");
  }
  const int64_t pairs = b.pair_offsets.back();
  demand(b.tile_offsets.front() == 0 && b.tile_offsets.back() == pairs, "tile offsets");
  std::vector<uint8_t> met(pairs, 0);  // the used ones must be met, the others not
  for (size_t t = 0; t + 1 < b.tile_offsets.size(); ++t)
    for (int64_t k = b.tile_offsets[t]; k < b.tile_offsets[t] + b.tile_counts[t]; ++k) {
      const int64_t v = rank.at(b.tile_ids[k]), pair = b.tile_pairs[k];
      demand(v >= 0 && b.pair_offsets[v] <= pair && pair < b.pair_offsets[v + 1], "pair of a list item");
      demand(!met.at(pair)++, "a pair in two lists");
      if (k > b.tile_offsets[t]) demand(rank[b.tile_ids[k - 1]] < v, "a tile's list is not front to back");
    }
  for (int64_t p = 0; p < pairs; ++p) demand(met[p] == b.pair_used[p], "a pair is used and not listed, or the reverse");
}

void check_values(const Scene& s, const Truth& truth, const Blended& b, Totals& totals) {
  const int64_t pixels = int64_t(s.width) * s.height;
  totals.pixels += pixels;
  for (int64_t p = 0; p < pixels; ++p) {
    double total = b.transmittance[p];
    for (int64_t n = 0; n < s.count; ++n) {
      const float w = b.dense[p * s.count + n];
      demand(w >= 0 && w <= kAlphaMax, "a weight out of [0, 0.99]", w);
      total += w;
    }
    demand(std::fabs(total - 1) <= 1e-5, "row sum + T", total, 1);
    if (!truth.safe[p]) continue;
    ++totals.safe;
    double bound_T = 1e-6;
    for (const Layer& layer : truth.pixels[p]) bound_T += 2 * layer.error * layer.alpha;
    demand(std::fabs(b.transmittance[p] - truth.left[p]) <= bound_T, "T against the oracle", b.transmittance[p], truth.left[p]);
    const double terms = double(truth.pixels[p].size()) + 1;
    for (int c = 0; c < s.dim; ++c) {
      double exact = 0, bound = 1e-30;
      for (const Layer& layer : truth.pixels[p]) {
        const double term = layer.w * s.values[layer.id * s.dim + c];
        exact += term, bound += std::fabs(term) * (2 * layer.error + terms * 1.2e-7);
      }
      const double off = std::fabs(b.out[p * s.dim + c] - exact);
      totals.worst_value = std::max(totals.worst_value, off / bound);
      demand(off <= bound, "W values against the oracle", b.out[p * s.dim + c], exact);
    }
  }
}

void check_gradients(const Scene& s, const Splats& splats, const Truth& truth, const Upstream& up,
                     const Blended& b, Totals& totals) {
  const Gradients g = adjoint_exactly(s, splats, truth, up.v_out, up.v_alphas);
  const auto compare = [&](const std::vector<float>& got, const std::vector<double>& exact,
                           const std::vector<double>& size, const char* what) {
    for (size_t i = 0; i < got.size(); ++i) {
      // Smooth pixels have alpha to 1e-4 or better, most far better; the rest is float32 rounding.
      const double off = std::fabs(got[i] - exact[i]), bound = 1e-4 * size[i] + 1e-30;
      totals.worst_gradient = std::max(totals.worst_gradient, off / bound);
      demand(off <= bound, what, got[i], exact[i]);
      ++totals.gradients;
    }
  };
  compare(b.v_means2d, g.means2d, g.abs_means2d, "gradient of means2d");
  compare(b.v_conics, g.conics, g.abs_conics, "gradient of conics");
  compare(b.v_opacities, g.opacities, g.abs_opacities, "gradient of opacities");
  compare(b.v_values, g.values, g.abs_values, "gradient of values");
  compare(b.adjoint, g.values, g.abs_values, "W^t against the oracle");
  compare(b.unordered, g.values, g.abs_values, "unordered W^t against the oracle");
}

// <W f, g> = <f, W^t g>, relative to the sum of the absolute products.
void check_adjoint(const Scene& s, const Upstream& up, const Blended& b, const std::vector<float>& adjoint) {
  double left = 0, right = 0, size = 1e-30;
  for (size_t i = 0; i < b.out.size(); ++i) left += double(b.out[i]) * up.v_out[i];
  for (size_t i = 0; i < adjoint.size(); ++i) right += double(s.values[i]) * adjoint[i];
  const int64_t pixels = int64_t(s.width) * s.height;
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t n = 0; n < s.count; ++n)
      if (const float w = b.dense[p * s.count + n])
        for (int c = 0; c < s.dim; ++c) size += std::fabs(double(w) * s.values[n * s.dim + c] * up.v_out[p * s.dim + c]);
  demand(std::fabs(left - right) <= 1e-6 * size, "adjoint identity", left, right);
}

double axis_weight(int token, int tokens, int pixel, int pixels, bool tent) {
  const double step = double(pixels) / tokens;
  if (!tent) return std::floor((pixel + 0.5) / step) == token ? 1 : 0;
  const double u = std::min(std::max((pixel + 0.5) / step - 0.5, 0.0), tokens - 1.0);
  return std::max(0.0, 1 - std::fabs(u - token));
}

// Rows of pooled weights, from W or without it, against kernel x W in double.
void check_rows(const Scene& s, const Blended& b, const std::vector<int64_t>& offsets, const std::vector<int32_t>& cols,
                const std::vector<float>& vals) {
  std::vector<double> row(s.count);
  for (int t = 0; t < s.grid_h * s.grid_w; ++t) {
    std::fill(row.begin(), row.end(), 0.0);
    double norm = 0;
    for (int y = 0; y < s.height; ++y)
      for (int x = 0; x < s.width; ++x) {
        const double k = axis_weight(t / s.grid_w, s.grid_h, y, s.height, s.tent) *
                         axis_weight(t % s.grid_w, s.grid_w, x, s.width, s.tent);
        norm += k;
        if (k > 0)
          for (int64_t n = 0; n < s.count; ++n) row[n] += k * b.dense[(int64_t(y) * s.width + x) * s.count + n];
      }
    for (int64_t i = offsets[t]; i < offsets[t + 1]; ++i) {
      demand(i == offsets[t] || cols[i - 1] < cols[i], "columns of a token ascend");
      // float32 positions of the kernel and sums over a patch.
      const double exact = row.at(cols[i]) / norm;
      demand(vals[i] > 0 && std::fabs(vals[i] - exact) <= 2e-5 * exact + 1e-7, "pooled weight", vals[i], exact);
      row[cols[i]] = 0;
    }
    for (const double rest : row) demand(rest / norm <= 1e-7, "a pooled weight is missing", rest / norm);
  }
}

void check_tokens(const Scene& s, const Blended& b) {
  check_rows(s, b, b.row_offsets, b.cols, b.vals);
  if (b.direct) check_rows(s, b, b.direct_offsets, b.direct_cols, b.direct_vals);
  // The transposed copy holds the same entries, rows ascending.
  demand(b.t_offsets.front() == 0 && b.t_offsets.back() == int64_t(b.vals.size()), "transposed offsets");
  double sum = 0, t_sum = 0;
  for (int64_t n = 0; n < s.count; ++n)
    for (int64_t i = b.t_offsets[n]; i < b.t_offsets[n + 1]; ++i) {
      demand(i == b.t_offsets[n] || b.t_rows[i - 1] < b.t_rows[i], "rows of a Gaussian ascend");
      t_sum += double(b.t_vals[i]) * (n + 1) * (b.t_rows[i] + 1);
    }
  for (int t = 0; t < s.grid_h * s.grid_w; ++t)
    for (int64_t i = b.row_offsets[t]; i < b.row_offsets[t + 1]; ++i) sum += double(b.vals[i]) * (b.cols[i] + 1) * (t + 1);
  demand(std::fabs(sum - t_sum) <= 1e-9 * sum, "transposed entries", t_sum, sum);
}

void check_similarity(const Scene& s, Rng& rng) {
  std::vector<float> x(3 * int64_t(s.width) * s.height), y(x.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(rng.uniform()), y[i] = float(rng.uniform());
  const Similarity r = run_ssim(s, x, y, 1), same = run_ssim(s, x, x, 2);
  demand(bytes_of(r) == bytes_of(run_ssim(s, x, y, 3)), "ssim depends on the thread count");
  demand_finite(r.row_sums, "ssim"), demand_finite(r.gradient, "ssim's gradient");
  const double whole = 0.5 * 3 * s.width;  // of one row, where both pictures agree
  for (const double sum : same.row_sums) demand(std::fabs(sum - whole) <= 1e-4 * whole, "ssim of equal pictures", sum, whole);
  for (const double sum : r.row_sums) demand(std::fabs(sum) <= whole * (1 + 1e-4), "ssim beyond one", sum, whole);
}

void check_scene(uint64_t seed, Totals& totals) {
  current_scene = seed, current_isa = "all";
  const Scene s = make_scene(seed);
  Rng rng{seed ^ 0x5555};
  const Projection3 projected = run_project(s, 1);
  check_projection(s, projected, totals);
  check_culling(s, projected.splats);
  demand(bytes_of(projected) == bytes_of(run_project(s, 2 + int(seed % 2))), "projection depends on the thread count");
  const Truth truth = blend_exactly(s, projected.splats);
  const int64_t pixels = int64_t(s.width) * s.height;
  Upstream up{std::vector<float>(pixels * s.dim), std::vector<float>(pixels),
              std::vector<float>(int64_t(s.grid_h) * s.grid_w * s.dim)};
  for (auto* v : {&up.v_out, &up.v_alphas, &up.tokens})
    for (float& x : *v) x = float(rng.normal());
  // Three scenes in four leave out the pixels whose gradients float32 cannot know.
  const bool exact = seed % 4 != 0;
  for (int64_t p = 0; exact && p < pixels; ++p)
    if (!truth.smooth[p]) {
      up.v_alphas[p] = 0;
      for (int c = 0; c < s.dim; ++c) up.v_out[p * s.dim + c] = 0;
    }
  for (const bool baseline : {false, true}) {
    use_baseline(baseline);
    if (baseline && current_isa == std::string(blend_ops().name)) break;  // this machine has one table
    current_isa = blend_ops().name;
    const Blended b = run_blend(s, projected.splats, up, 1);
    demand_finite(b.out, "W values"), demand_finite(b.adjoint, "W^t maps"), demand_finite(b.pooled, "pooled values");
    demand_finite(b.unordered, "unordered W^t maps"), demand_finite(b.pooled_adjoint, "pooled adjoint"), demand_finite(b.v_values, "gradient of values");
    check_lists(s, projected.splats, b);
    check_values(s, truth, b, totals);
    check_adjoint(s, up, b, b.adjoint);
    if (exact) check_gradients(s, projected.splats, truth, up, b, totals);
    check_tokens(s, b);
    const Blended again = run_blend(s, projected.splats, up, 2 + int(seed % 2));
    demand(bytes_of(b) == bytes_of(again), "blending depends on the thread count");
    check_adjoint(s, up, b, again.unordered);
    demand_finite(b.v_means2d, "gradient of means2d"), demand_finite(b.v_conics, "gradient of conics");
    demand_finite(b.v_opacities, "gradient of opacities");
    // The whole way back, and back from upstream gradients of order one.
    Upstream3 up3{b.v_means2d, b.v_conics, b.v_opacities, b.v_means2d};
    up3.colors.resize(3 * s.count);
    for (const bool ordinary : {false, true}) {
      if (ordinary)
        for (auto* v : {&up3.means2d, &up3.conics, &up3.depths, &up3.colors})
          for (float& x : *v) x = float(rng.normal());
      const Leaves leaves = run_project_backward(s, projected.splats, up3, 1);
      demand(bytes_of(leaves) == bytes_of(run_project_backward(s, projected.splats, up3, 3)),
             "the projection's adjoint depends on the thread count");
      demand_finite(leaves.v_means, "gradient of means"), demand_finite(leaves.v_quats, "gradient of quats");
      demand_finite(leaves.v_scales, "gradient of scales"), demand_finite(leaves.v_sh, "gradient of sh");
      for (int64_t n = 0; n < s.count; ++n) {
        if (projected.splats.radii[2 * n] > 0) {
          if (ordinary) check_splat(s, projected.splats, up3, leaves, n, totals);
          continue;
        }
        for (int i = 0; i < 3; ++i)
          demand(leaves.v_means[3 * n + i] == 0 && leaves.v_scales[3 * n + i] == 0 && leaves.v_quats[4 * n + i] == 0,
                 "a culled Gaussian has gradients");
      }
    }
  }
  use_baseline(false);
  if (seed % 8 == 0) check_similarity(s, rng);
}

int check(int64_t scenes, uint64_t seed) {
  const auto start = std::chrono::steady_clock::now();
  Totals totals;
  for (int64_t i = 0; i < scenes; ++i) check_scene(seed + uint64_t(i), totals);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  use_baseline(false);
  const std::string isa = blend_ops().name;
  const int isas = isa == "baseline" ? 1 : 2;
  std::printf("fuzz: %" PRId64 " scenes from seed %" PRIu64 " clean (%s): %" PRId64 " visible Gaussians, %" PRId64
              " with their gradients, %" PRId64 " of %" PRId64 " pixels and %" PRId64 " gradients compared with the double oracle, at most %.0f %% and"
              " %.0f %% of what is allowed; %.0f s\n",
              scenes, seed, isa == "baseline" ? "baseline" : (isa + ", baseline").c_str(), totals.visible,
              totals.splats / isas, totals.safe, totals.pixels, totals.gradients, 100 * totals.worst_value, 100 * totals.worst_gradient, seconds);
  return 0;
}

}  // namespace
}  // namespace tests
}  // namespace fit3d

int main(int argc, char** argv) {
  using namespace fit3d::tests;
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "check" && argc == 4) return check(std::atoll(argv[2]), std::strtoull(argv[3], nullptr, 10));
  if (mode == "dump" && argc == 6) return dump(argv[2], std::atoll(argv[3]), std::strtoull(argv[4], nullptr, 10), argv[5]);
  if ((mode == "compare" || mode == "same") && argc == 4) return compare(argv[2], argv[3], mode == "same");
  std::fprintf(stderr, "usage: fuzz check SCENES SEED | dump FILE SCENES SEED fast|baseline | compare A B | same A B\n");
  return 2;
}
