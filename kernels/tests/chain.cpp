#include "chain.h"

#include <algorithm>
#include <cmath>

#include "fit3d/macros.h"
#include "ops.h"

namespace fit3d {
namespace tests {
namespace {

constexpr int kFusedChannels = 10, kChannels = 40;  // as FUSED_CHANNELS and CHUNK in fit3d_cli/splat/matrix.py

// Memory as torch.empty gives it: whatever was there. Here it is NaN, so that a value which no
// kernel wrote is found.
template <class T>
std::vector<T> raw(int64_t n) {
  return std::vector<T>(n, static_cast<T>(-1));
}
template <>
std::vector<float> raw(int64_t n) {
  return std::vector<float>(n, std::numeric_limits<float>::quiet_NaN());
}

template <class T>
void put(std::string& to, const std::vector<T>& v) {
  to.append(reinterpret_cast<const char*>(v.data()), sizeof(T) * v.size());
}

ProjectIn project_in(const Scene& s) {
  return {s.count, s.means.data(), s.quats.data(), s.scales.data(), s.opacities.data(), s.viewmat,
          s.K, s.width, s.height, s.near_plane, s.far_plane, s.eps2d};
}

}  // namespace

Projection3 run_project(const Scene& s, int threads) {
  Projection3 p;
  p.splats = {raw<float>(2 * s.count), raw<float>(3 * s.count), raw<float>(s.count), raw<int32_t>(2 * s.count)};
  project_forward(project_in(s), p.splats.means2d.data(), p.splats.conics.data(),
                  p.splats.depths.data(), p.splats.radii.data(), threads);
  p.colors = raw<float>(3 * s.count);
  harmonics_forward(s.count, s.degree, s.bases, s.means.data(), s.center, s.sh.data(),
                    p.splats.radii.data(), p.colors.data(), threads);
  return p;
}

namespace {

// W pooled without W, as fit3d_cli/splat/pooling.py does where no tile has too many tokens.
void run_tokens(const Scene& s, const Lists& lists, const uint32_t* masks, int64_t longest, int threads, Blended& b) {
  const Grid grid{s.grid_h, s.grid_w, s.tent};
  const int64_t tokens = int64_t(s.grid_h) * s.grid_w, tiles = int64_t(tile_count(s.width)) * tile_count(s.height);
  const int most = most_tokens(s.width, s.height, grid);
  b.direct = most <= kMostTokens;
  if (!b.direct) return;
  const int64_t room = lists.tile_offsets[tiles] * most, stride = (8 * most + 9) * (longest + 7) + 32;
  auto ids = raw<int32_t>(room), counts = raw<int32_t>(tiles * most);
  auto sums = raw<float>(room), scratch = raw<float>(threads * stride);
  auto bounds = raw<int64_t>(tokens + 1);
  const int64_t total = token_pieces(lists, masks, grid, most, counts.data(), ids.data(), sums.data(), bounds.data(),
                                     scratch.data(), stride, threads);
  auto merged = raw<uint64_t>(2 * total);
  b.direct_offsets.assign(tokens + 1, 0);
  token_merge(lists, grid, most, counts.data(), ids.data(), sums.data(), bounds.data(), s.count, merged.data(),
              b.direct_offsets.data() + 1, threads);
  for (int64_t t = 0; t < tokens; ++t) b.direct_offsets[t + 1] += b.direct_offsets[t];
  b.direct_cols = raw<int32_t>(b.direct_offsets[tokens]), b.direct_vals = raw<float>(b.direct_offsets[tokens]);
  token_pack(tokens, bounds.data(), b.direct_offsets.data(), merged.data(), b.direct_cols.data(), b.direct_vals.data(), threads);
}

}  // namespace

Blended run_blend(const Scene& s, const Splats& splats, const Upstream& up, int threads) {
  const BlendOps& ops = blend_ops();
  Blended b;
  const int64_t pixels = int64_t(s.width) * s.height;
  const int64_t tiles = int64_t(tile_count(s.width)) * tile_count(s.height);
  // sort and bin
  b.order = raw<int32_t>(s.count);
  auto scratch4 = raw<uint32_t>(4 * s.count);
  const int64_t visible = depth_order(s.count, splats.depths.data(), splats.radii.data(), scratch4.data(), b.order.data());
  b.order = std::vector<int32_t>(b.order.begin(), b.order.begin() + visible);
  auto packed = raw<float>(kSplat * s.count);
  b.pair_offsets = raw<int64_t>(visible + 1);
  ops.bin_count(visible, b.order.data(), splats.means2d.data(), splats.conics.data(), s.opacities.data(), s.width,
                s.height, packed.data(), b.pair_offsets.data(), threads);
  const int64_t pairs = b.pair_offsets[visible];
  b.tile_offsets = raw<int64_t>(tiles + 1);
  b.tile_counts = raw<int32_t>(tiles);
  b.tile_ids = raw<int32_t>(pairs), b.tile_pairs = raw<int32_t>(pairs);
  auto pair_tiles = raw<int32_t>(pairs), histograms = raw<int32_t>(kBinParts * tiles);
  auto pair_masks = raw<uint32_t>(pairs), masks = raw<uint32_t>(pairs);
  auto entry_offsets = raw<int64_t>(tiles + 1);
  ops.bin_fill(visible, b.order.data(), packed.data(), b.pair_offsets.data(), s.width, s.height, pair_tiles.data(),
               pair_masks.data(), histograms.data(), b.tile_offsets.data(), b.tile_counts.data(), b.tile_ids.data(),
               b.tile_pairs.data(), masks.data(), entry_offsets.data(), threads);
  const Lists lists{s.width, s.height, packed.data(), b.tile_offsets.data(), b.tile_counts.data(),
                    b.tile_ids.data(), b.tile_pairs.data()};
  const auto longest_list = [&] { return int64_t(*std::max_element(b.tile_counts.begin(), b.tile_counts.end())); };
  run_tokens(s, lists, masks.data(), longest_list(), threads, b);  // before W shortens the lists
  // W
  const int64_t room = entry_offsets[tiles];
  b.pair_used = raw<uint8_t>(pairs);
  auto group_offsets = raw<int64_t>(kGroupsPerTile * tiles);
  auto group_counts = raw<int32_t>(kGroupsPerTile * tiles), slots = raw<int32_t>(room);
  auto weights = raw<float>(kLanes * room);
  b.transmittance = raw<float>(pixels);
  {
    const int64_t stride = 10 * longest_list() + 32;
    auto scratch = raw<float>(threads * stride);
    ops.weights_fill(lists, masks.data(), entry_offsets.data(), b.tile_counts.data(), b.tile_ids.data(),
                     b.tile_pairs.data(), b.pair_used.data(), group_offsets.data(), group_counts.data(), slots.data(),
                     weights.data(), b.transmittance.data(), scratch.data(), stride, threads);
  }
  const int64_t longest = longest_list();  // of what is used
  const Weights w{group_offsets.data(), group_counts.data(), slots.data(), weights.data()};
  b.dense.assign(pixels * s.count, 0.0f);
  for (int64_t t = 0; t < tiles; ++t)
    for (int g = 0; g < kGroupsPerTile; ++g)
      for (int e = 0; e < group_counts[t * kGroupsPerTile + g]; ++e) {
        const int64_t at = group_offsets[t * kGroupsPerTile + g] + e;
        const int64_t n = b.tile_ids.at(b.tile_offsets[t] + slots.at(at));
        for (int i = 0; i < kLanes; ++i) {
          const int x = int(t % tile_count(s.width)) * kTile + g / kGroupRows * kGroupWidth + i % kGroupWidth;
          const int y = int(t / tile_count(s.width)) * kTile + g % kGroupRows * kGroupHeight + i / kGroupWidth;
          const float v = weights.at(kLanes * at + i);
          if (x < s.width && y < s.height) b.dense[(int64_t(y) * s.width + x) * s.count + n] += v;
          else if (v != 0) b.dense[0] = -1;  // a weight outside the picture: the check for >= 0 finds it
        }
      }
  // products
  b.out = raw<float>(pixels * s.dim);
  {
    const int64_t stride = 3 * longest * kLanes;
    auto scratch = raw<float>(threads * stride);
    ops.apply(lists, w, s.dim, s.values.data(), b.out.data(), scratch.data(), stride, threads);
    b.adjoint = raw<float>(s.count * s.dim);
    clear(b.adjoint.data(), s.count * s.dim, threads);
    const int chunk = std::min(s.dim, kChannels);
    auto partials = raw<float>(pairs * chunk);
    for (int first = 0; first < s.dim; first += chunk) {
      const int width = std::min(s.dim - first, chunk);
      scratch = raw<float>(threads * stride);
      ops.apply_t(lists, w, s.dim, first, width, up.v_out.data(), partials.data(), scratch.data(), stride, threads);
      reduce_pairs(visible, b.order.data(), b.pair_offsets.data(), b.pair_used.data(), width, width, partials.data(), s.dim, first,
                   b.adjoint.data(), threads);
    }
  }
  {
    const int64_t stride = 3 * longest * kLanes;
    auto scratch = raw<float>(threads * stride);
    b.unordered.assign(s.count * s.dim, 0.0f);
    ops.apply_t_unordered(lists, w, s.dim, up.v_out.data(), b.unordered.data(), scratch.data(), stride, threads);
  }
  {  // gradients of the splats
    const bool fused = s.dim <= kFusedChannels;
    const int row = fused ? 16 : 8;
    const int64_t stride = 32 * longest + kLanes * s.dim;
    auto partials = raw<float>(pairs * row), scratch = raw<float>(threads * stride);
    ops.blend_backward(lists, w, s.dim, s.values.data(), up.v_out.data(), up.v_alphas.data(),
                       b.transmittance.data(), partials.data(), fused, scratch.data(), stride, threads);
    b.v_means2d.assign(2 * s.count, 0.0f), b.v_conics.assign(3 * s.count, 0.0f), b.v_opacities.assign(s.count, 0.0f);
    reduce_moments(visible, b.order.data(), b.pair_offsets.data(), b.pair_used.data(), row, partials.data(), packed.data(),
                   b.v_means2d.data(), b.v_conics.data(), b.v_opacities.data(), threads);
    b.v_values = fused ? std::vector<float>(s.count * s.dim, 0.0f) : b.adjoint;
    if (fused)
      reduce_pairs(visible, b.order.data(), b.pair_offsets.data(), b.pair_used.data(), s.dim, row, partials.data() + 6, s.dim, 0,
                   b.v_values.data(), threads);
  }
  {  // tokens
    const Grid grid{s.grid_h, s.grid_w, s.tent};
    const int64_t tokens = int64_t(s.grid_h) * s.grid_w;
    auto stamps = raw<int32_t>(threads * s.count);
    b.row_offsets.assign(tokens + 1, 0);
    pool_count(lists, w, grid, s.count, stamps.data(), b.row_offsets.data() + 1, threads);
    for (int64_t t = 0; t < tokens; ++t) b.row_offsets[t + 1] += b.row_offsets[t];
    const int64_t nnz = b.row_offsets[tokens];
    b.cols = raw<int32_t>(nnz), b.vals = raw<float>(nnz);
    auto sums = raw<float>(threads * s.count);
    pool_fill(lists, w, grid, s.count, sums.data(), stamps.data(), b.row_offsets.data(), b.cols.data(), b.vals.data(), threads);
    b.t_offsets = raw<int64_t>(s.count + 1), b.t_rows = raw<int32_t>(nnz), b.t_vals = raw<float>(nnz);
    csr_transpose(tokens, s.count, b.row_offsets.data(), b.cols.data(), b.vals.data(), b.t_offsets.data(),
                  b.t_rows.data(), b.t_vals.data());
    b.pooled = raw<float>(tokens * s.dim), b.pooled_adjoint.assign(s.count * s.dim, 1.0f);
    ops.csr_apply(tokens, b.row_offsets.data(), b.cols.data(), b.vals.data(), s.dim, s.values.data(), false, b.pooled.data(), threads);
    ops.csr_apply(s.count, b.t_offsets.data(), b.t_rows.data(), b.t_vals.data(), s.dim, up.tokens.data(), true, b.pooled_adjoint.data(), threads);
  }
  return b;
}

Leaves run_project_backward(const Scene& s, const Splats& splats, const Upstream3& up, int threads) {
  Leaves l{raw<float>(3 * s.count), raw<float>(4 * s.count), raw<float>(3 * s.count), raw<float>(3 * s.bases * s.count)};
  project_backward(project_in(s), splats.radii.data(), up.means2d.data(), up.conics.data(), up.depths.data(),
                   l.v_means.data(), l.v_quats.data(), l.v_scales.data(), threads);
  harmonics_backward(s.count, s.degree, s.bases, s.means.data(), s.center, splats.radii.data(), up.colors.data(),
                     l.v_sh.data(), threads);
  return l;
}

Similarity run_ssim(const Scene& s, const std::vector<float>& x, const std::vector<float>& y, int threads) {
  const int channels = 3;
  float taps[11];
  double sum = 0;
  for (int i = 0; i < 11; ++i) sum += taps[i] = static_cast<float>(1.0 / (1 + (i - 5) * (i - 5)));
  for (float& tap : taps) tap = static_cast<float>(tap / sum);
  const int64_t n = int64_t(s.width) * channels;
  auto scratch = raw<float>((8 * s.height + 5 * threads) * n);
  const std::vector<float> weights(int64_t(s.width) * s.height, 0.5f);
  Similarity r{raw<double>(s.height), raw<float>(n * s.height)};
  ssim(s.height, s.width, channels, x.data(), y.data(), weights.data(), taps, scratch.data(), r.row_sums.data(),
       r.gradient.data(), threads);
  return r;
}

std::string bytes_of(const Projection3& p) {
  std::string r;
  put(r, p.splats.means2d), put(r, p.splats.conics), put(r, p.splats.depths), put(r, p.splats.radii);
  put(r, p.colors);
  return r;
}
std::string bytes_of(const Blended& b) {
  std::string r;
  put(r, b.order), put(r, b.pair_offsets), put(r, b.tile_offsets), put(r, b.tile_counts), put(r, b.pair_used), put(r, b.tile_ids), put(r, b.tile_pairs);
  put(r, b.dense), put(r, b.transmittance), put(r, b.out), put(r, b.adjoint), put(r, b.v_means2d);
  put(r, b.v_conics), put(r, b.v_opacities), put(r, b.v_values), put(r, b.row_offsets), put(r, b.cols);
  put(r, b.vals), put(r, b.t_offsets), put(r, b.t_rows), put(r, b.t_vals), put(r, b.pooled);
  put(r, b.pooled_adjoint), put(r, b.direct_offsets), put(r, b.direct_cols), put(r, b.direct_vals);
  return r;
}
std::string bytes_of(const Leaves& l) {
  std::string r;
  put(r, l.v_means), put(r, l.v_quats), put(r, l.v_scales), put(r, l.v_sh);
  return r;
}
std::string bytes_of(const Similarity& s) {
  std::string r;
  put(r, s.row_sums), put(r, s.gradient);
  return r;
}

}  // namespace tests
}  // namespace fit3d
