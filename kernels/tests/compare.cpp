#include "compare.h"

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "chain.h"
#include "ops.h"

namespace fit3d {
namespace tests {
namespace {

constexpr char kMagic[8] = {'f', '3', 'd', 'f', 'u', 'z', 'z', '1'};

// A file is the magic, the name of the instruction set [16], then records: a tag [16], the scene,
// the count, the values and how large each may be (the tolerance is relative to that).
struct Record {
  char tag[16];
  uint64_t scene, count;
};

void put(std::FILE* file, const char* tag, uint64_t scene, const std::vector<float>& values,
         const std::vector<float>& sizes) {
  Record r{};
  std::strncpy(r.tag, tag, sizeof r.tag - 1);
  r.scene = scene, r.count = values.size();
  std::fwrite(&r, sizeof r, 1, file);
  std::fwrite(values.data(), sizeof(float), values.size(), file);
  std::fwrite(sizes.data(), sizeof(float), sizes.size(), file);
}

std::vector<float> floats(const std::vector<double>& v) { return {v.begin(), v.end()}; }

// How far two instruction sets may differ, as a share of each value's size: the sum of the absolute
// terms that make it up. Pixels near a threshold are left out when dumping.
struct Rule {
  const char* tag;
  double share;
};
constexpr Rule kRules[] = {
    {"means2d", 1e-6},     // a dozen operations, scaled by the terms before they cancel
    {"depths", 1e-6},
    {"weights", 2e-5},     // exp of a rounded exponent, times a product of up to hundreds of factors
    {"values", 2e-5},      // sums of those
    {"adjoint", 2e-5},
    {"gradients", 2e-5},   // sums of their differences; alpha / (1 - alpha) is in the size
    {"pooled", 1e-5},      // sums over patches
};

constexpr size_t kProjected = 2;  // the first rules' records: NaN where culled

struct Reader {
  std::FILE* file;
  char isa[16];
  explicit Reader(const char* path) : file(std::fopen(path, "rb")), isa{} {
    char magic[8];
    if (!file || std::fread(magic, 8, 1, file) != 1 || std::memcmp(magic, kMagic, 8) || std::fread(isa, 16, 1, file) != 1) {
      std::fprintf(stderr, "fuzz: %s is no dump\n", path);
      std::exit(2);
    }
  }
  ~Reader() { std::fclose(file); }
  bool next(Record& r, std::vector<float>& values, std::vector<float>& sizes) {
    if (std::fread(&r, sizeof r, 1, file) != 1) return false;
    values.resize(r.count), sizes.resize(r.count);
    return std::fread(values.data(), sizeof(float), r.count, file) == r.count &&
           std::fread(sizes.data(), sizeof(float), r.count, file) == r.count;
  }
};

}  // namespace

int dump(const char* path, int64_t scenes, uint64_t seed, const char* isa) {
  use_baseline(std::string(isa) == "baseline");
  std::FILE* file = std::fopen(path, "wb");
  if (!file) return std::perror(path), 2;
  char name[16] = {};
  std::strncpy(name, blend_ops().name, sizeof name - 1);
  std::fwrite(kMagic, 8, 1, file), std::fwrite(name, 16, 1, file);
  for (int64_t i = 0; i < scenes; ++i) {
    const Scene s = make_scene(seed + uint64_t(i));
    // Projection in float, of the Gaussians that the exact one keeps.
    const Splats exact = project_exactly(s);
    const Splats ours = run_project(s, 1).splats;
    std::vector<float> means2d, size2d, depths, sizez;
    for (int64_t n = 0; n < s.count; ++n) {
      if (exact.radii[2 * n] <= 0) continue;
      const bool culled = ours.radii[2 * n] <= 0;  // on the edge of something: NaN
      double z_terms = std::fabs(s.viewmat[11]), x_terms = 0;
      for (int j = 0; j < 3; ++j) z_terms += std::fabs(double(s.viewmat[8 + j]) * s.means[3 * n + j]);
      for (int r = 0; r < 2; ++r) {
        x_terms = std::fabs(s.viewmat[4 * r + 3]);
        for (int j = 0; j < 3; ++j) x_terms += std::fabs(double(s.viewmat[4 * r + j]) * s.means[3 * n + j]);
        const double z = exact.depths[n], f = s.K[4 * r], c = s.K[3 * r + 2], shift = exact.means2d[2 * n + r] - c;
        means2d.push_back(culled ? NAN : ours.means2d[2 * n + r]);
        size2d.push_back(float(std::fabs(c) + f * x_terms / z + std::fabs(shift) * z_terms / z));
      }
      depths.push_back(culled ? NAN : ours.depths[n]), sizez.push_back(float(z_terms));
    }
    put(file, "means2d", s.seed, means2d, size2d), put(file, "depths", s.seed, depths, sizez);
    // Blending starts from the same bits everywhere.
    const Truth truth = blend_exactly(s, exact);
    Rng rng{s.seed};
    const int64_t pixels = int64_t(s.width) * s.height;
    Upstream up{std::vector<float>(pixels * s.dim), std::vector<float>(pixels),
                std::vector<float>(int64_t(s.grid_h) * s.grid_w * s.dim)};
    for (auto* v : {&up.v_out, &up.v_alphas, &up.tokens})
      for (float& x : *v) x = float(rng.normal());
    bool all_smooth = true;
    for (int64_t p = 0; p < pixels; ++p)
      if (!truth.smooth[p]) {
        all_smooth = false, up.v_alphas[p] = 0;
        for (int c = 0; c < s.dim; ++c) up.v_out[p * s.dim + c] = 0;
      }
    const Blended b = run_blend(s, exact, up, 1);
    const Gradients g = adjoint_exactly(s, exact, truth, up.v_out, up.v_alphas);
    std::vector<float> left, one, out, out_sizes;
    for (int64_t p = 0; p < pixels; ++p) {
      if (!truth.smooth[p]) continue;
      left.push_back(b.transmittance[p]), one.push_back(1.0f);
      for (int c = 0; c < s.dim; ++c) {
        double size = 0;
        for (const Layer& layer : truth.pixels[p]) size += std::fabs(layer.w * s.values[layer.id * s.dim + c]);
        out.push_back(b.out[p * s.dim + c]), out_sizes.push_back(float(size));
      }
    }
    put(file, "weights", s.seed, left, one), put(file, "values", s.seed, out, out_sizes);
    put(file, "adjoint", s.seed, b.adjoint, floats(g.abs_values));
    put(file, "gradients", s.seed, b.v_means2d, floats(g.abs_means2d));
    put(file, "gradients", s.seed, b.v_conics, floats(g.abs_conics));
    put(file, "gradients", s.seed, b.v_opacities, floats(g.abs_opacities));
    put(file, "gradients", s.seed, b.v_values, floats(g.abs_values));
    if (all_smooth) put(file, "pooled", s.seed, b.pooled, std::vector<float>(b.pooled.size(), 1.0f));
  }
  use_baseline(false);
  return std::fclose(file) ? 2 : 0;
}

int compare(const char* first, const char* second, bool same_bits) {
  Reader a(first), b(second);
  Record ra, rb;
  std::vector<float> va, vb, sa, sb;
  struct Row { int64_t count = 0, equal = 0, culled = 0; double worst = 0; } rows[sizeof kRules / sizeof *kRules];
  for (;;) {
    const bool more = a.next(ra, va, sa);
    if (more != b.next(rb, vb, sb) || (more && (std::memcmp(&ra, &rb, sizeof ra) != 0))) {
      std::fprintf(stderr, "fuzz: the files hold different records (%s of scene %" PRIu64 ")\n", ra.tag, ra.scene);
      return 1;
    }
    if (!more) break;
    for (size_t k = 0; k < sizeof kRules / sizeof *kRules; ++k) {
      if (std::strcmp(ra.tag, kRules[k].tag)) continue;
      for (size_t i = 0; i < va.size(); ++i) {
        if (k < kProjected && (std::isnan(va[i]) || std::isnan(vb[i]))) {
          rows[k].culled += std::isnan(va[i]) != std::isnan(vb[i]);
          continue;  // culled by one, or by both
        }
        const double off = std::fabs(double(va[i]) - vb[i]), allowed = kRules[k].share * sa[i] + 1e-30;
        ++rows[k].count, rows[k].equal += std::memcmp(&va[i], &vb[i], 4) == 0;
        if (off / (sa[i] + 1e-30) > rows[k].worst) rows[k].worst = off / (sa[i] + 1e-30);
        if (!(off <= allowed)) {
          std::fprintf(stderr, "fuzz: %s of scene %" PRIu64 ": %.9g (%s) and %.9g (%s), %.3g apart, allowed %.3g\n",
                       ra.tag, ra.scene, va[i], a.isa, vb[i], b.isa, off, allowed);
          return 1;
        }
      }
    }
  }
  std::printf("fuzz: %s against %s; one of them culls %" PRId64 " of %" PRId64 " Gaussians on an edge\n", a.isa, b.isa,
              rows[1].culled, rows[1].count);
  if (rows[1].culled > rows[1].count / 100) return std::fprintf(stderr, "fuzz: that is too many\n"), 1;
  for (size_t k = 0; k < sizeof kRules / sizeof *kRules; ++k)
    std::printf("  %-10s %11" PRId64 " values, %6.2f %% the same bits, worst %.1e of %.0e allowed\n", kRules[k].tag,
                rows[k].count, rows[k].count ? 100.0 * rows[k].equal / rows[k].count : 100.0, rows[k].worst, kRules[k].share);
  for (const Row& row : rows)
    if (same_bits && (row.equal != row.count || row.culled)) return std::fprintf(stderr, "fuzz: the bits differ\n"), 1;
  return 0;
}

}  // namespace tests
}  // namespace fit3d
