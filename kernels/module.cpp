// The Python module: array constraints, GIL release, dispatch. No arithmetic.
//
// Arrays are C-contiguous CPU memory of exactly the stated type; nothing is converted or copied,
// and everything that a function writes is allocated by the caller (fit3d_cli/splat/kernel.py).
// Sizes that the arguments share are compared before anything is read; what lists hold (ids,
// offsets) comes from the functions before and is not.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <optional>
#include <string>

#include "cpu/ops.h"
#include "fit3d/macros.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace fit3d;

template <class T, int... Dims>
using Array = nb::ndarray<T, nb::shape<Dims...>, nb::c_contig, nb::device::cpu>;
using Vec = Array<const float, -1>;
using Mat = Array<const float, -1, -1>;
using OutVec = Array<float, -1>;
using OutMat = Array<float, -1, -1>;
using Ids = Array<const int32_t, -1>;
using OutIds = Array<int32_t, -1>;
using OutOffsets = Array<int64_t, -1>;
using Flags = Array<const uint8_t, -1>;
using Offsets = Array<const int64_t, -1>;
using Pairs2 = Array<const int32_t, -1, 2>;

namespace {

// A size that another argument decides.
void same(const char* name, size_t got, int64_t want) {
  if (want < 0 || got != static_cast<size_t>(want))
    throw nb::value_error((std::string(name) + " has " + std::to_string(got) + " rows, expected " +
                           std::to_string(want)).c_str());
}
void at_least(const char* name, size_t got, int64_t want) {
  if (want < 0 || got < static_cast<size_t>(want))
    throw nb::value_error((std::string(name) + " has room for " + std::to_string(got) +
                           ", needs " + std::to_string(want)).c_str());
}
void bases(const char* name, size_t got, int degree) {
  if (degree < 0 || degree > 3) throw nb::value_error("degree must be 0, 1, 2 or 3");
  at_least(name, got, (degree + 1) * (degree + 1));
}
void positive(const char* name, int64_t value) {
  if (value < 1) throw nb::value_error((std::string(name) + " must be at least 1").c_str());
}

void grid(int h, int w) {
  positive("h", h);
  positive("w", w);
}

struct PyLists {  // what bin made, borrowed for the duration of a call
  Mat splats;
  Offsets tile_offsets;
  OutIds tile_counts, tile_ids, tile_pairs;
  int width, height;
  int64_t pixels() const { return static_cast<int64_t>(width) * height; }
  int64_t tiles() const { return tile_counts.shape(0); }
  int64_t longest() const {
    const int32_t* counts = tile_counts.data();
    return tiles() ? *std::max_element(counts, counts + tiles()) : 0;
  }
  // Once bin_fill has filled them, the offsets say how many items the lists have room for.
  int64_t items() const { return tile_offsets.data()[tiles()]; }
  void check() const {
    positive("width", width);
    positive("height", height);
    same("tile_offsets", tile_offsets.shape(0), tiles() + 1);
    same("columns of splats", splats.shape(1), 16);
    same("tile_counts", tile_counts.shape(0),
         ((width + int64_t{kTile} - 1) / kTile) * ((height + int64_t{kTile} - 1) / kTile));
  }
  // After bin_fill.
  void check_filled() const {
    check();
    at_least("tile_ids", tile_ids.shape(0), items());
    at_least("tile_pairs", tile_pairs.shape(0), items());
  }
  Lists view() const {
    return {width, height, splats.data(), tile_offsets.data(), tile_counts.data(),
            tile_ids.data(), tile_pairs.data()};
  }
};
struct PyWeights {
  Offsets group_offsets;
  Ids group_counts, slots;
  Mat weights;
  void check(const PyLists& lists) const {
    same("group_offsets", group_offsets.shape(0), group_counts.shape(0));
    same("group_counts", group_counts.shape(0), 32 * lists.tiles());
    same("weights", weights.shape(0), slots.shape(0));
    same("columns of weights", weights.shape(1), 8);
  }
  Weights view() const {
    return {group_offsets.data(), group_counts.data(), slots.data(), weights.data()};
  }
};
struct PyCamera {
  Array<const float, 4, 4> viewmat;
  Array<const float, 3, 3> K;
  int width, height;
  float near_plane, far_plane, eps2d;
};

ProjectIn project_in(Array<const float, -1, 3> means, Array<const float, -1, 4> quats,
                     Array<const float, -1, 3> scales, Vec opacities, const PyCamera& c) {
  const int64_t count = means.shape(0);
  same("quats", quats.shape(0), count);
  same("scales", scales.shape(0), count);
  same("opacities", opacities.shape(0), count);
  return {count, means.data(), quats.data(), scales.data(),
          opacities.data(), c.viewmat.data(), c.K.data(), c.width, c.height, c.near_plane,
          c.far_plane, c.eps2d};
}

}  // namespace

NB_MODULE(_kernels, m) {
  m.doc() = "CPU kernels of fit3d: projection, binning, the weight matrix and its products.";
  // Views that Python still holds at exit (autograd graphs do) are no leak.
  nb::set_leak_warnings(false);
  m.def("isa", [] { return blend_ops().name; }, "Instruction set in use: 'avx2', 'neon' or 'baseline'.");
  m.def("use_baseline", &use_baseline, "baseline"_a,
        "Force the portable code path (tests compare it with the fast one).");

  m.def("huge_pages",
        [](Array<uint8_t, -1> bytes) { prefer_huge_pages(bytes.data(), bytes.nbytes()); },
        "bytes"_a.noconvert(),
        "Ask the system for large pages behind an array that nothing has touched yet.");

  nb::class_<PyCamera>(m, "Camera")
      .def(nb::init<Array<const float, 4, 4>, Array<const float, 3, 3>, int, int, float, float, float>(),
           "viewmat"_a.noconvert(), "K"_a.noconvert(), "width"_a, "height"_a, "near_plane"_a,
           "far_plane"_a, "eps2d"_a);
  nb::class_<PyLists>(m, "Lists")
      .def(nb::init<Mat, Offsets, OutIds, OutIds, OutIds, int, int>(), "splats"_a.noconvert(),
           "tile_offsets"_a.noconvert(), "tile_counts"_a.noconvert(), "tile_ids"_a.noconvert(), "tile_pairs"_a.noconvert(),
           "width"_a, "height"_a);
  nb::class_<PyWeights>(m, "Weights")
      .def(nb::init<Offsets, Ids, Ids, Mat>(), "group_offsets"_a.noconvert(),
           "group_counts"_a.noconvert(), "slots"_a.noconvert(), "weights"_a.noconvert());

  using Release = nb::call_guard<nb::gil_scoped_release>;

  m.def("project_forward",
        [](Array<const float, -1, 3> means, Array<const float, -1, 4> quats,
           Array<const float, -1, 3> scales, Vec opacities, const PyCamera& camera,
           Array<float, -1, 2> means2d, Array<float, -1, 3> conics, OutVec depths,
           Array<int32_t, -1, 2> radii, int threads) {
          const int64_t count = means.shape(0);
          same("means2d", means2d.shape(0), count);
          same("conics", conics.shape(0), count);
          same("depths", depths.shape(0), count);
          same("radii", radii.shape(0), count);
          positive("threads", threads);
          project_forward(project_in(means, quats, scales, opacities, camera), means2d.data(),
                          conics.data(), depths.data(), radii.data(), threads);
        },
        "means"_a.noconvert(), "quats"_a.noconvert(), "scales"_a.noconvert(),
        "opacities"_a.noconvert(), "camera"_a, "means2d"_a.noconvert(), "conics"_a.noconvert(),
        "depths"_a.noconvert(), "radii"_a.noconvert(), "threads"_a, Release());

  m.def("project_backward",
        [](Array<const float, -1, 3> means, Array<const float, -1, 4> quats,
           Array<const float, -1, 3> scales, Vec opacities, const PyCamera& camera, Pairs2 radii,
           Array<const float, -1, 2> v_means2d, Array<const float, -1, 3> v_conics, Vec v_depths,
           Array<float, -1, 3> v_means, Array<float, -1, 4> v_quats, Array<float, -1, 3> v_scales,
           int threads) {
          const int64_t count = means.shape(0);
          same("radii", radii.shape(0), count);
          same("v_means2d", v_means2d.shape(0), count);
          same("v_conics", v_conics.shape(0), count);
          same("v_depths", v_depths.shape(0), count);
          same("v_means", v_means.shape(0), count);
          same("v_quats", v_quats.shape(0), count);
          same("v_scales", v_scales.shape(0), count);
          positive("threads", threads);
          project_backward(project_in(means, quats, scales, opacities, camera), radii.data(),
                           v_means2d.data(), v_conics.data(), v_depths.data(), v_means.data(),
                           v_quats.data(), v_scales.data(), threads);
        },
        "means"_a.noconvert(), "quats"_a.noconvert(), "scales"_a.noconvert(),
        "opacities"_a.noconvert(), "camera"_a, "radii"_a.noconvert(), "v_means2d"_a.noconvert(),
        "v_conics"_a.noconvert(), "v_depths"_a.noconvert(), "v_means"_a.noconvert(),
        "v_quats"_a.noconvert(), "v_scales"_a.noconvert(), "threads"_a, Release());

  m.def("harmonics_forward",
        [](Array<const float, -1, 3> means, Array<const float, 3> center,
           Array<const float, -1, -1, 3> sh, Pairs2 radii, int degree, Array<float, -1, 3> colors,
           int threads) {
          const int64_t count = means.shape(0);
          same("sh", sh.shape(0), count);
          same("radii", radii.shape(0), count);
          same("colors", colors.shape(0), count);
          bases("sh", sh.shape(1), degree);
          positive("threads", threads);
          harmonics_forward(means.shape(0), degree, static_cast<int>(sh.shape(1)), means.data(),
                            center.data(), sh.data(), radii.data(), colors.data(), threads);
        },
        "means"_a.noconvert(), "center"_a.noconvert(), "sh"_a.noconvert(), "radii"_a.noconvert(),
        "degree"_a, "colors"_a.noconvert(), "threads"_a, Release());

  m.def("harmonics_backward",
        [](Array<const float, -1, 3> means, Array<const float, 3> center, Pairs2 radii, int degree,
           Array<const float, -1, 3> v_colors, Array<float, -1, -1, 3> v_sh, int threads) {
          const int64_t count = means.shape(0);
          same("radii", radii.shape(0), count);
          same("v_colors", v_colors.shape(0), count);
          same("v_sh", v_sh.shape(0), count);
          bases("v_sh", v_sh.shape(1), degree);
          positive("threads", threads);
          harmonics_backward(means.shape(0), degree, static_cast<int>(v_sh.shape(1)), means.data(),
                             center.data(), radii.data(), v_colors.data(), v_sh.data(), threads);
        },
        "means"_a.noconvert(), "center"_a.noconvert(), "radii"_a.noconvert(), "degree"_a,
        "v_colors"_a.noconvert(), "v_sh"_a.noconvert(), "threads"_a, Release());

  m.def("depth_order",
        [](Vec depths, Pairs2 radii, OutIds scratch, OutIds order) {
          const int64_t count = depths.shape(0);
          same("radii", radii.shape(0), count);
          at_least("scratch", scratch.shape(0), 4 * count);
          at_least("order", order.shape(0), count);
          return depth_order(depths.shape(0), depths.data(), radii.data(),
                             reinterpret_cast<uint32_t*>(scratch.data()), order.data());
        },
        "depths"_a.noconvert(), "radii"_a.noconvert(), "scratch"_a.noconvert(),
        "order"_a.noconvert(), Release());

  m.def("bin_count",
        [](Ids order, Array<const float, -1, 2> means2d, Array<const float, -1, 3> conics,
           Vec opacities, int width, int height, OutMat splats, OutOffsets pair_offsets,
           int threads) {
          const int64_t count = means2d.shape(0);
          at_least("means2d", count, order.shape(0));
          same("conics", conics.shape(0), count);
          same("opacities", opacities.shape(0), count);
          same("splats", splats.shape(0), count);
          same("columns of splats", splats.shape(1), 16);
          at_least("pair_offsets", pair_offsets.shape(0), order.shape(0) + 1);
          positive("width", width);
          positive("height", height);
          positive("threads", threads);
          blend_ops().bin_count(order.shape(0), order.data(), means2d.data(), conics.data(),
                                opacities.data(), width, height, splats.data(),
                                pair_offsets.data(), threads);
          return pair_offsets.data()[order.shape(0)];
        },
        "order"_a.noconvert(), "means2d"_a.noconvert(), "conics"_a.noconvert(),
        "opacities"_a.noconvert(), "width"_a, "height"_a, "splats"_a.noconvert(),
        "pair_offsets"_a.noconvert(), "threads"_a, Release());

  m.attr("BIN_PARTS") = kBinParts;
  m.def("bin_fill",
        [](Ids order, Offsets pair_offsets, const PyLists& lists, OutIds pair_tiles,
           OutIds pair_masks, OutIds histograms, OutOffsets tile_offsets, OutIds masks, OutOffsets entry_offsets,
           int threads) {
          const int64_t visible = order.shape(0), tiles = lists.tiles();
          lists.check();
          same("pair_offsets", pair_offsets.shape(0), visible + 1);
          const int64_t pairs = pair_offsets.data()[visible];
          at_least("splats", lists.splats.shape(0), visible);
          at_least("tile_ids", lists.tile_ids.shape(0), pairs);
          at_least("tile_pairs", lists.tile_pairs.shape(0), pairs);
          at_least("pair_tiles", pair_tiles.shape(0), pairs);
          at_least("pair_masks", pair_masks.shape(0), pairs);
          at_least("masks", masks.shape(0), pairs);
          at_least("histograms", histograms.shape(0), kBinParts * tiles);
          same("tile_offsets", tile_offsets.shape(0), tiles + 1);
          same("entry_offsets", entry_offsets.shape(0), tiles + 1);
          positive("threads", threads);
          blend_ops().bin_fill(order.shape(0), order.data(), lists.splats.data(),
                               pair_offsets.data(), lists.width, lists.height, pair_tiles.data(),
                               reinterpret_cast<uint32_t*>(pair_masks.data()),
                               histograms.data(), tile_offsets.data(), lists.tile_counts.data(),
                               lists.tile_ids.data(), lists.tile_pairs.data(),
                               reinterpret_cast<uint32_t*>(masks.data()), entry_offsets.data(),
                               threads);
          return entry_offsets.data()[entry_offsets.shape(0) - 1];
        },
        "order"_a.noconvert(), "pair_offsets"_a.noconvert(), "lists"_a,
        "pair_tiles"_a.noconvert(), "pair_masks"_a.noconvert(), "histograms"_a.noconvert(), "tile_offsets"_a.noconvert(), "masks"_a.noconvert(),
        "entry_offsets"_a.noconvert(), "threads"_a, Release());

  m.def("weights_fill",
        [](const PyLists& lists, Ids masks, Offsets entry_offsets, Array<uint8_t, -1> pair_used,
           OutOffsets group_offsets, OutIds group_counts, OutIds slots, OutMat weights,
           OutMat transmittance, OutMat scratch, int threads) {
          const int64_t tiles = lists.tiles();
          lists.check_filled();
          same("entry_offsets", entry_offsets.shape(0), tiles + 1);
          const int64_t entries = entry_offsets.data()[tiles];
          at_least("masks", masks.shape(0), lists.items());
          at_least("pair_used", pair_used.shape(0), lists.items());
          same("group_offsets", group_offsets.shape(0), 32 * tiles);
          same("group_counts", group_counts.shape(0), 32 * tiles);
          at_least("slots", slots.shape(0), entries);
          at_least("weights", weights.shape(0), entries);
          same("columns of weights", weights.shape(1), 8);
          same("transmittance", transmittance.shape(0) * transmittance.shape(1), lists.pixels());
          positive("threads", threads);
          at_least("scratch", scratch.shape(0), threads);
          at_least("columns of scratch", scratch.shape(1), 10 * lists.longest() + 32);
          blend_ops().weights_fill(lists.view(), reinterpret_cast<const uint32_t*>(masks.data()),
                                   entry_offsets.data(), lists.tile_counts.data(),
                                   lists.tile_ids.data(), lists.tile_pairs.data(),
                                   pair_used.data(), group_offsets.data(), group_counts.data(),
                                   slots.data(), weights.data(), transmittance.data(),
                                   scratch.data(), scratch.shape(1), threads);
        },
        "lists"_a, "masks"_a.noconvert(), "entry_offsets"_a.noconvert(),
        "pair_used"_a.noconvert(), "group_offsets"_a.noconvert(), "group_counts"_a.noconvert(),
        "slots"_a.noconvert(), "weights"_a.noconvert(), "transmittance"_a.noconvert(),
        "scratch"_a.noconvert(), "threads"_a, Release());

  m.def("apply",
        [](const PyLists& lists, const PyWeights& weights, Mat values, OutMat out, OutMat scratch,
           int threads) {
          same("values", values.shape(0), lists.splats.shape(0));
          same("out", out.shape(0), lists.pixels());
          same("columns of out", out.shape(1), values.shape(1));
          lists.check_filled();
          weights.check(lists);
          positive("threads", threads);
          at_least("scratch", scratch.shape(0), threads);
          at_least("columns of scratch", scratch.shape(1), 24 * lists.longest());
          blend_ops().apply(lists.view(), weights.view(), values.shape(1), values.data(),
                            out.data(), scratch.data(), scratch.shape(1), threads);
        },
        "lists"_a, "weights"_a, "values"_a.noconvert(), "out"_a.noconvert(),
        "scratch"_a.noconvert(), "threads"_a, Release());

  m.def("apply_t",
        [](const PyLists& lists, const PyWeights& weights, Ids order, Offsets pair_offsets,
           Flags pair_used, Mat maps, OutVec partials, int chunk, OutMat out, OutMat scratch,
           int threads) {
          same("maps", maps.shape(0), lists.pixels());
          same("out", out.shape(0), lists.splats.shape(0));
          same("columns of out", out.shape(1), maps.shape(1));
          same("pair_offsets", pair_offsets.shape(0), order.shape(0) + 1);
          lists.check_filled();
          weights.check(lists);
          positive("threads", threads);
          positive("chunk", chunk);
          const int64_t pairs = pair_offsets.data()[order.shape(0)];
          at_least("pair_used", pair_used.shape(0), pairs);
          at_least("partials", partials.shape(0),
                   pairs * std::min<int64_t>(maps.shape(1), chunk));
          at_least("scratch", scratch.shape(0), threads);
          at_least("columns of scratch", scratch.shape(1), 24 * lists.longest());
          const int64_t dim = maps.shape(1);
          clear(out.data(), out.shape(0) * dim, threads);
          for (int64_t first = 0; first < dim; first += chunk) {
            const int width = static_cast<int>(dim - first < chunk ? dim - first : chunk);
            blend_ops().apply_t(lists.view(), weights.view(), dim, first, width, maps.data(),
                                partials.data(), scratch.data(), scratch.shape(1), threads);
            reduce_pairs(order.shape(0), order.data(), pair_offsets.data(), pair_used.data(), width,
                         width, partials.data(), dim, first, out.data(), threads);
          }
        },
        "lists"_a, "weights"_a, "order"_a.noconvert(), "pair_offsets"_a.noconvert(),
        "pair_used"_a.noconvert(), "maps"_a.noconvert(), "partials"_a.noconvert(), "chunk"_a,
        "out"_a.noconvert(), "scratch"_a.noconvert(), "threads"_a, Release());

  m.def("apply_t_unordered",
        [](const PyLists& lists, const PyWeights& weights, Mat maps, OutMat out, OutMat scratch,
           int threads) {
          same("maps", maps.shape(0), lists.pixels());
          same("out", out.shape(0), lists.splats.shape(0));
          same("columns of out", out.shape(1), maps.shape(1));
          lists.check_filled();
          weights.check(lists);
          positive("threads", threads);
          at_least("scratch", scratch.shape(0), threads);
          at_least("columns of scratch", scratch.shape(1), 24 * lists.longest());
          clear(out.data(), out.shape(0) * out.shape(1), threads);
          blend_ops().apply_t_unordered(lists.view(), weights.view(), maps.shape(1), maps.data(),
                                        out.data(), scratch.data(), scratch.shape(1), threads);
        },
        "lists"_a, "weights"_a, "maps"_a.noconvert(), "out"_a.noconvert(),
        "scratch"_a.noconvert(), "threads"_a, Release());

  m.def("blend_backward",
        [](const PyLists& lists, const PyWeights& weights, Ids order, Offsets pair_offsets,
           Flags pair_used, Mat values, Mat v_out, Mat v_alphas, Mat transmittance, OutMat partials, OutMat scratch,
           Array<float, -1, 2> v_means2d, Array<float, -1, 3> v_conics, OutVec v_opacities,
           std::optional<OutMat> v_values, int threads) {
          const int64_t gaussians = lists.splats.shape(0);
          same("values", values.shape(0), gaussians);
          same("v_out", v_out.shape(0), lists.pixels());
          same("columns of v_out", v_out.shape(1), values.shape(1));
          same("v_means2d", v_means2d.shape(0), gaussians);
          same("v_conics", v_conics.shape(0), gaussians);
          same("v_opacities", v_opacities.shape(0), gaussians);
          same("pair_offsets", pair_offsets.shape(0), order.shape(0) + 1);
          lists.check_filled();
          weights.check(lists);
          positive("threads", threads);
          same("v_alphas", v_alphas.shape(0) * v_alphas.shape(1), lists.pixels());
          same("transmittance", transmittance.shape(0) * transmittance.shape(1), lists.pixels());
          const int64_t pairs = pair_offsets.data()[order.shape(0)];
          at_least("pair_used", pair_used.shape(0), pairs);
          at_least("partials", partials.shape(0) * partials.shape(1),
                   pairs * (v_values ? 16 : 8));
          if (v_values && values.shape(1) > 10)
            throw nb::value_error("v_values is for 10 channels at most");
          at_least("scratch", scratch.shape(0), threads);
          at_least("columns of scratch", scratch.shape(1),
                   32 * lists.longest() + 8 * static_cast<int64_t>(values.shape(1)));
          const int64_t dim = values.shape(1);
          const bool with_values = v_values.has_value();
          float* to = nullptr;
          if (with_values) {
            same("v_values", v_values->shape(0), gaussians);
            same("columns of v_values", v_values->shape(1), dim);
            to = v_values->data();
          }
          nb::gil_scoped_release release;
          const int row = with_values ? 16 : 8;
          blend_ops().blend_backward(lists.view(), weights.view(), dim, values.data(),
                                     v_out.data(), v_alphas.data(), transmittance.data(),
                                     partials.data(), with_values, scratch.data(), scratch.shape(1),
                                     threads);
          reduce_moments(order.shape(0), order.data(), pair_offsets.data(), pair_used.data(), row,
                         partials.data(), lists.splats.data(), v_means2d.data(), v_conics.data(),
                         v_opacities.data(), threads);
          if (with_values)
            reduce_pairs(order.shape(0), order.data(), pair_offsets.data(), pair_used.data(),
                         static_cast<int>(dim), row, partials.data() + 6, dim, 0, to, threads);
        },
        "lists"_a, "weights"_a, "order"_a.noconvert(), "pair_offsets"_a.noconvert(),
        "pair_used"_a.noconvert(), "values"_a.noconvert(), "v_out"_a.noconvert(), "v_alphas"_a.noconvert(),
        "transmittance"_a.noconvert(), "partials"_a.noconvert(), "scratch"_a.noconvert(),
        "v_means2d"_a.noconvert(), "v_conics"_a.noconvert(), "v_opacities"_a.noconvert(),
        "v_values"_a.noconvert().none(), "threads"_a);

  m.def("pool_count",
        [](const PyLists& lists, const PyWeights& weights, int h, int w, bool tent,
           Array<int32_t, -1, -1> stamps, Array<int64_t, -1> row_sizes, int threads) {
          lists.check_filled();
          weights.check(lists);
          grid(h, w);
          positive("threads", threads);
          same("row_sizes", row_sizes.shape(0), static_cast<int64_t>(h) * w);
          at_least("stamps", stamps.shape(0), threads);
          same("columns of stamps", stamps.shape(1), lists.splats.shape(0));
          pool_count(lists.view(), weights.view(), {h, w, tent}, stamps.shape(1), stamps.data(),
                     row_sizes.data(), threads);
        },
        "lists"_a, "weights"_a, "h"_a, "w"_a, "tent"_a, "stamps"_a.noconvert(),
        "row_sizes"_a.noconvert(), "threads"_a, Release());

  m.def("pool_fill",
        [](const PyLists& lists, const PyWeights& weights, int h, int w, bool tent,
           Array<int32_t, -1, -1> stamps, OutMat sums, Offsets row_offsets,
           Array<int32_t, -1> cols, OutVec vals, int threads) {
          lists.check_filled();
          weights.check(lists);
          grid(h, w);
          positive("threads", threads);
          same("row_offsets", row_offsets.shape(0), static_cast<int64_t>(h) * w + 1);
          at_least("cols", cols.shape(0), row_offsets.data()[static_cast<int64_t>(h) * w]);
          same("vals", vals.shape(0), cols.shape(0));
          at_least("stamps", stamps.shape(0), threads);
          same("columns of stamps", stamps.shape(1), lists.splats.shape(0));
          at_least("sums", sums.shape(0), threads);
          same("columns of sums", sums.shape(1), lists.splats.shape(0));
          pool_fill(lists.view(), weights.view(), {h, w, tent}, stamps.shape(1), sums.data(),
                    stamps.data(), row_offsets.data(), cols.data(), vals.data(), threads);
        },
        "lists"_a, "weights"_a, "h"_a, "w"_a, "tent"_a, "stamps"_a.noconvert(),
        "sums"_a.noconvert(), "row_offsets"_a.noconvert(), "cols"_a.noconvert(),
        "vals"_a.noconvert(), "threads"_a, Release());

  m.attr("MOST_TOKENS") = kMostTokens;
  m.def("most_tokens",
        [](int width, int height, int h, int w, bool tent) {
          return most_tokens(width, height, {h, w, tent});
        },
        "width"_a, "height"_a, "h"_a, "w"_a, "tent"_a,
        "The most tokens of a grid that one tile of the picture touches.");

  m.def("token_pieces",
        [](const PyLists& lists, Ids masks, int h, int w, bool tent, int most, OutIds piece_counts,
           OutIds piece_ids, OutVec piece_sums, OutOffsets row_bounds, OutMat scratch,
           int threads) {
          lists.check_filled();
          grid(h, w);
          positive("most", most);
          positive("threads", threads);
          at_least("masks", masks.shape(0), lists.items());
          at_least("piece_counts", piece_counts.shape(0), lists.tiles() * most);
          at_least("piece_ids", piece_ids.shape(0), lists.items() * most);
          at_least("piece_sums", piece_sums.shape(0), lists.items() * most);
          same("row_bounds", row_bounds.shape(0), static_cast<int64_t>(h) * w + 1);
          at_least("scratch", scratch.shape(0), threads);
          at_least("columns of scratch", scratch.shape(1),
                   (8 * int64_t{most} + 9) * (lists.longest() + 7) + 32);
          return token_pieces(lists.view(), reinterpret_cast<const uint32_t*>(masks.data()),
                              {h, w, tent}, most, piece_counts.data(), piece_ids.data(),
                              piece_sums.data(), row_bounds.data(), scratch.data(),
                              scratch.shape(1), threads);
        },
        "lists"_a, "masks"_a.noconvert(), "h"_a, "w"_a, "tent"_a, "most"_a,
        "piece_counts"_a.noconvert(), "piece_ids"_a.noconvert(), "piece_sums"_a.noconvert(),
        "row_bounds"_a.noconvert(), "scratch"_a.noconvert(), "threads"_a, Release());

  m.def("token_merge",
        [](const PyLists& lists, int h, int w, bool tent, int most, Ids piece_counts,
           Ids piece_ids, Vec piece_sums, Offsets row_bounds, int64_t count, OutOffsets merged,
           OutOffsets row_sizes, int threads) {
          const int64_t rows = static_cast<int64_t>(h) * w;
          lists.check_filled();
          grid(h, w);
          positive("most", most);
          positive("threads", threads);
          at_least("piece_counts", piece_counts.shape(0), lists.tiles() * most);
          at_least("piece_ids", piece_ids.shape(0), lists.items() * most);
          at_least("piece_sums", piece_sums.shape(0), lists.items() * most);
          same("row_bounds", row_bounds.shape(0), rows + 1);
          at_least("merged", merged.shape(0), 2 * row_bounds.data()[rows]);
          same("row_sizes", row_sizes.shape(0), rows);
          token_merge(lists.view(), {h, w, tent}, most, piece_counts.data(), piece_ids.data(),
                      piece_sums.data(), row_bounds.data(), count,
                      reinterpret_cast<uint64_t*>(merged.data()), row_sizes.data(), threads);
        },
        "lists"_a, "h"_a, "w"_a, "tent"_a, "most"_a, "piece_counts"_a.noconvert(),
        "piece_ids"_a.noconvert(), "piece_sums"_a.noconvert(), "row_bounds"_a.noconvert(),
        "count"_a, "merged"_a.noconvert(), "row_sizes"_a.noconvert(), "threads"_a, Release());

  m.def("token_pack",
        [](Offsets row_bounds, Offsets row_offsets, Offsets merged, OutIds cols, OutVec vals,
           int threads) {
          const int64_t rows = static_cast<int64_t>(row_offsets.shape(0)) - 1;
          at_least("row_offsets", row_offsets.shape(0), 1);
          same("row_bounds", row_bounds.shape(0), rows + 1);
          at_least("merged", merged.shape(0), 2 * row_bounds.data()[rows]);
          at_least("cols", cols.shape(0), row_offsets.data()[rows]);
          same("vals", vals.shape(0), cols.shape(0));
          positive("threads", threads);
          token_pack(row_offsets.shape(0) - 1, row_bounds.data(), row_offsets.data(),
                     reinterpret_cast<const uint64_t*>(merged.data()), cols.data(), vals.data(),
                     threads);
        },
        "row_bounds"_a.noconvert(), "row_offsets"_a.noconvert(), "merged"_a.noconvert(),
        "cols"_a.noconvert(), "vals"_a.noconvert(), "threads"_a, Release());

  m.def("csr_apply",
        [](Offsets offsets, Ids cols, Vec vals, Mat x, bool add, OutMat out, int threads) {
          same("offsets", offsets.shape(0), out.shape(0) + 1);
          same("vals", vals.shape(0), cols.shape(0));
          same("columns of out", out.shape(1), x.shape(1));
          positive("threads", threads);
          blend_ops().csr_apply(out.shape(0), offsets.data(), cols.data(), vals.data(), x.shape(1),
                                x.data(), add, out.data(), threads);
        },
        "offsets"_a.noconvert(), "cols"_a.noconvert(), "vals"_a.noconvert(), "x"_a.noconvert(),
        "add"_a, "out"_a.noconvert(), "threads"_a, Release());

  m.def("csr_transpose",
        [](Offsets offsets, Ids cols, Vec vals, Array<int64_t, -1> t_offsets,
           Array<int32_t, -1> t_rows, OutVec t_vals) {
          at_least("offsets", offsets.shape(0), 1);
          at_least("t_offsets", t_offsets.shape(0), 1);
          same("vals", vals.shape(0), cols.shape(0));
          same("t_rows", t_rows.shape(0), cols.shape(0));
          same("t_vals", t_vals.shape(0), cols.shape(0));
          const int64_t columns = static_cast<int64_t>(t_offsets.shape(0)) - 1;
          const int32_t *first = cols.data(), *last = first + cols.shape(0);
          for (const int32_t* col = first; col < last; ++col)
            if (*col < 0 || *col >= columns) throw nb::value_error("a column is out of range");
          csr_transpose(offsets.shape(0) - 1, t_offsets.shape(0) - 1, offsets.data(), cols.data(),
                        vals.data(), t_offsets.data(), t_rows.data(), t_vals.data());
        },
        "offsets"_a.noconvert(), "cols"_a.noconvert(), "vals"_a.noconvert(),
        "t_offsets"_a.noconvert(), "t_rows"_a.noconvert(), "t_vals"_a.noconvert(), Release());

  m.def("ssim",
        [](Array<const float, -1, -1, -1> x, Array<const float, -1, -1, -1> y, Mat weights,
           Vec taps, OutVec scratch, Array<double, -1> row_sums,
           std::optional<Array<float, -1, -1, -1>> v_x, int threads) {
          const int64_t height = x.shape(0), width = x.shape(1), channels = x.shape(2);
          const int64_t values = height * width * channels;
          same("values of y", y.shape(0) * y.shape(1) * y.shape(2), values);
          same("y", y.shape(0), height);
          same("weights", weights.shape(0), height);
          same("columns of weights", weights.shape(1), width);
          same("taps", taps.shape(0), 11);
          same("row_sums", row_sums.shape(0), height);
          positive("threads", threads);
          at_least("scratch", scratch.shape(0), 8 * values + 5 * threads * width * channels);
          float* to = nullptr;
          if (v_x) {
            same("v_x", v_x->shape(0) * v_x->shape(1) * v_x->shape(2), values);
            to = v_x->data();
          }
          nb::gil_scoped_release release;
          ssim(height, width, channels, x.data(), y.data(), weights.data(), taps.data(),
               scratch.data(), row_sums.data(), to, threads);
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "weights"_a.noconvert(), "taps"_a.noconvert(),
        "scratch"_a.noconvert(), "row_sums"_a.noconvert(), "v_x"_a.noconvert().none(), "threads"_a);
}
