// The Python module `fit3d_cli._cuda`: array constraints, GIL release, exceptions. No arithmetic.
//
// Arrays are C-contiguous memory of exactly the stated type on the device (host memory where a name
// says so, and everywhere in the emulated build); nothing is converted or copied, and everything
// that a function writes is allocated by the caller (fit3d_cli/splat/cuda/). `stream` is a
// cudaStream_t as an integer; only the functions that return a count wait for it.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include "cuda/ops.h"

#ifndef F3D_CUDA_ARCHITECTURES
#define F3D_CUDA_ARCHITECTURES ""
#endif

#ifdef F3D_EMULATE
namespace fit3d {
namespace cuda {
namespace emulate {
void set_order(const std::string& order);  // emulate/cuda_emulation.h, which would rename CUDA's words
}
}  // namespace cuda
}  // namespace fit3d
#endif

namespace nb = nanobind;
using namespace nb::literals;
using namespace fit3d::cuda;

#ifdef F3D_EMULATE
using Where = nb::device::cpu;
constexpr bool kEmulated = true;
#else
using Where = nb::device::cuda;
constexpr bool kEmulated = false;
#endif

template <class T, int... Dims>
using Array = nb::ndarray<T, nb::shape<Dims...>, nb::c_contig, Where>;
template <int... Dims>
using Host = nb::ndarray<const float, nb::shape<Dims...>, nb::c_contig, nb::device::cpu>;
using Vec = Array<const float, -1>;
using Mat = Array<const float, -1, -1>;
using Rows2 = Array<const float, -1, 2>;
using Rows3 = Array<const float, -1, 3>;
using Rows4 = Array<const float, -1, 4>;
using Blocks = Array<const float, -1, 32>;
using OutVec = Array<float, -1>;
using OutMat = Array<float, -1, -1>;
using Ids = Array<const int32_t, -1>;
using OutIds = Array<int32_t, -1>;
using Offsets = Array<const int64_t, -1>;
using OutOffsets = Array<int64_t, -1>;
using Radii = Array<const int32_t, -1, 2>;
using Scratch = Array<uint8_t, -1>;
using Handle = uintptr_t;

namespace {

Stream stream_of(Handle handle) { return reinterpret_cast<Stream>(handle); }
Math math_of(bool tensor) { return tensor ? Math::kTensor : Math::kFloat32; }

struct PyCamera {
  Host<4, 4> viewmat;
  Host<3, 3> K;
  int width, height;
  float near_plane, far_plane, eps2d;
};
struct PyLists {  // what bin made; the arrays are kept alive by this object
  Array<const float, -1, 16> splats;
  Ids tile_offsets, ids, pairs;
  int width, height;
  Lists view() const {
    return {width,          height,     static_cast<int64_t>(ids.shape(0)), splats.data(),
            tile_offsets.data(), ids.data(), pairs.data()};
  }
};
struct PyWeights {  // likewise; masks are int16 outside because few libraries know uint16
  Array<const int16_t, -1> masks;
  Ids offsets;
  Blocks weights;
  Weights view() const {
    return {reinterpret_cast<const uint16_t*>(masks.data()), offsets.data(), weights.data()};
  }
};

ProjectIn project_in(const Rows3& means, const Rows4& quats, const Rows3& scales,
                     const Vec& opacities, const PyCamera& c) {
  return {static_cast<int64_t>(means.shape(0)), means.data(), quats.data(), scales.data(),
          opacities.data(), c.viewmat.data(), c.K.data(), c.width, c.height, c.near_plane,
          c.far_plane, c.eps2d};
}

// The Python class of CudaError, a RuntimeError with the cudaError_t in `code`. Owned by the module.
PyObject* cuda_error_class = nullptr;

void translate(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const CudaError& error) {
    nb::object raised = nb::handle(cuda_error_class)(nb::str(error.what()));
    raised.attr("code") = error.code;
    PyErr_SetObject(cuda_error_class, raised.ptr());
  }
}

}  // namespace

NB_MODULE(_cuda, m) {
  m.doc() = "CUDA kernels of fit3d: projection, binning, the weight matrix and its products.";
  // Views that Python still holds at exit (autograd graphs do) are no leak.
  nb::set_leak_warnings(false);
  m.attr("emulated") = kEmulated;
  m.attr("architectures") = F3D_CUDA_ARCHITECTURES;

  const std::string error_name = nb::cast<std::string>(m.attr("__name__")) + ".CudaError";
  nb::dict error_attributes;
  error_attributes["code"] = 0;
  cuda_error_class =
      PyErr_NewException(error_name.c_str(), PyExc_RuntimeError, error_attributes.ptr());
  if (!cuda_error_class) throw nb::python_error();
  m.attr("CudaError") = nb::handle(cuda_error_class);
  nb::register_exception_translator(translate);

  nb::class_<DeviceInfo>(m, "DeviceInfo")
      .def_ro("name", &DeviceInfo::name)
      .def_ro("major", &DeviceInfo::major)
      .def_ro("minor", &DeviceInfo::minor)
      .def_ro("driver", &DeviceInfo::driver)
      .def_ro("runtime", &DeviceInfo::runtime)
      .def_ro("free_bytes", &DeviceInfo::free_bytes)
      .def_ro("total_bytes", &DeviceInfo::total_bytes)
      .def_ro("runs", &DeviceInfo::runs);
  nb::class_<PyCamera>(m, "Camera")
      .def(nb::init<Host<4, 4>, Host<3, 3>, int, int, float, float, float>(),
           "viewmat"_a.noconvert(), "K"_a.noconvert(), "width"_a, "height"_a, "near_plane"_a,
           "far_plane"_a, "eps2d"_a);
  nb::class_<PyLists>(m, "Lists")
      .def(nb::init<Array<const float, -1, 16>, Ids, Ids, Ids, int, int>(), "splats"_a.noconvert(),
           "tile_offsets"_a.noconvert(), "ids"_a.noconvert(), "pairs"_a.noconvert(), "width"_a,
           "height"_a);
  nb::class_<PyWeights>(m, "Weights")
      .def(nb::init<Array<const int16_t, -1>, Ids, Blocks>(), "masks"_a.noconvert(),
           "offsets"_a.noconvert(), "weights"_a.noconvert());

  using Release = nb::call_guard<nb::gil_scoped_release>;

  m.def("device_count", &device_count, "Devices that the driver shows; 0 without a driver.");
  m.def("device_info", &device_info, "device"_a,
        "What a device is, and whether this build holds code that it can execute.");
#ifdef F3D_EMULATE
  m.def("set_order", &emulate::set_order, "order"_a,
        "Order of blocks and threads: 'ascending', 'descending' or 'random:SEED'.");
#endif

  m.def("project_forward",
        [](Rows3 means, Rows4 quats, Rows3 scales, Vec opacities, const PyCamera& camera,
           Array<float, -1, 2> means2d, Array<float, -1, 3> conics, OutVec depths,
           Array<int32_t, -1, 2> radii, Handle stream) {
          project_forward(project_in(means, quats, scales, opacities, camera), means2d.data(),
                          conics.data(), depths.data(), radii.data(), stream_of(stream));
        },
        "means"_a.noconvert(), "quats"_a.noconvert(), "scales"_a.noconvert(),
        "opacities"_a.noconvert(), "camera"_a, "means2d"_a.noconvert(), "conics"_a.noconvert(),
        "depths"_a.noconvert(), "radii"_a.noconvert(), "stream"_a, Release());

  m.def("project_backward",
        [](Rows3 means, Rows4 quats, Rows3 scales, Vec opacities, const PyCamera& camera,
           Radii radii, Rows2 v_means2d, Rows3 v_conics, Vec v_depths, Array<float, -1, 3> v_means,
           Array<float, -1, 4> v_quats, Array<float, -1, 3> v_scales, Handle stream) {
          project_backward(project_in(means, quats, scales, opacities, camera), radii.data(),
                           v_means2d.data(), v_conics.data(), v_depths.data(), v_means.data(),
                           v_quats.data(), v_scales.data(), stream_of(stream));
        },
        "means"_a.noconvert(), "quats"_a.noconvert(), "scales"_a.noconvert(),
        "opacities"_a.noconvert(), "camera"_a, "radii"_a.noconvert(), "v_means2d"_a.noconvert(),
        "v_conics"_a.noconvert(), "v_depths"_a.noconvert(), "v_means"_a.noconvert(),
        "v_quats"_a.noconvert(), "v_scales"_a.noconvert(), "stream"_a, Release());

  m.def("harmonics_forward",
        [](Rows3 means, Host<3> center, Array<const float, -1, -1, 3> sh, Radii radii, int degree,
           Array<float, -1, 3> colors, Handle stream) {
          harmonics_forward(means.shape(0), degree, static_cast<int>(sh.shape(1)), means.data(),
                            center.data(), sh.data(), radii.data(), colors.data(),
                            stream_of(stream));
        },
        "means"_a.noconvert(), "center"_a.noconvert(), "sh"_a.noconvert(), "radii"_a.noconvert(),
        "degree"_a, "colors"_a.noconvert(), "stream"_a, Release());

  m.def("harmonics_backward",
        [](Rows3 means, Host<3> center, Radii radii, int degree, Rows3 v_colors,
           Array<float, -1, -1, 3> v_sh, Handle stream) {
          harmonics_backward(means.shape(0), degree, static_cast<int>(v_sh.shape(1)), means.data(),
                             center.data(), radii.data(), v_colors.data(), v_sh.data(),
                             stream_of(stream));
        },
        "means"_a.noconvert(), "center"_a.noconvert(), "radii"_a.noconvert(), "degree"_a,
        "v_colors"_a.noconvert(), "v_sh"_a.noconvert(), "stream"_a, Release());

  m.def("depth_order_bytes", &depth_order_bytes, "count"_a);
  m.def("depth_order",
        [](Vec depths, Radii radii, Scratch scratch, OutIds order, Handle stream) {
          return depth_order(depths.shape(0), depths.data(), radii.data(), scratch.data(),
                             scratch.shape(0), order.data(), stream_of(stream));
        },
        "depths"_a.noconvert(), "radii"_a.noconvert(), "scratch"_a.noconvert(),
        "order"_a.noconvert(), "stream"_a, Release());

  m.def("bin_count_bytes", &bin_count_bytes, "visible"_a);
  m.def("bin_count",
        [](Ids order, Rows2 means2d, Rows3 conics, Vec opacities, int width, int height,
           Array<float, -1, 16> splats, OutOffsets pair_offsets, Scratch scratch, Handle stream) {
          return bin_count(order.shape(0), order.data(), means2d.data(), conics.data(),
                           opacities.data(), width, height, splats.data(), pair_offsets.data(),
                           scratch.data(), scratch.shape(0), stream_of(stream));
        },
        "order"_a.noconvert(), "means2d"_a.noconvert(), "conics"_a.noconvert(),
        "opacities"_a.noconvert(), "width"_a, "height"_a, "splats"_a.noconvert(),
        "pair_offsets"_a.noconvert(), "scratch"_a.noconvert(), "stream"_a, Release());

  m.def("bin_fill_bytes", &bin_fill_bytes, "pairs"_a);
  m.def("bin_fill",
        [](Ids order, Array<const float, -1, 16> splats, Offsets pair_offsets, int width,
           int height, OutIds tile_offsets, OutIds ids, OutIds pairs, Scratch scratch,
           Handle stream) {
          bin_fill(order.shape(0), ids.shape(0), order.data(), splats.data(), pair_offsets.data(),
                   width, height, tile_offsets.data(), ids.data(), pairs.data(), scratch.data(),
                   scratch.shape(0), stream_of(stream));
        },
        "order"_a.noconvert(), "splats"_a.noconvert(), "pair_offsets"_a.noconvert(), "width"_a,
        "height"_a, "tile_offsets"_a.noconvert(), "ids"_a.noconvert(), "pairs"_a.noconvert(),
        "scratch"_a.noconvert(), "stream"_a, Release());

  m.def("weights_count_bytes", &weights_count_bytes, "items"_a);
  m.def("weights_count",
        [](const PyLists& lists, Array<int16_t, -1> masks, OutIds offsets, Scratch scratch,
           Handle stream) {
          return weights_count(lists.view(), reinterpret_cast<uint16_t*>(masks.data()),
                               offsets.data(), scratch.data(), scratch.shape(0),
                               stream_of(stream));
        },
        "lists"_a, "masks"_a.noconvert(), "offsets"_a.noconvert(), "scratch"_a.noconvert(),
        "stream"_a, Release());

  m.def("weights_fill",
        [](const PyLists& lists, Array<int16_t, -1> masks, Ids offsets, Array<float, -1, 32> weights,
           OutMat transmittance, Handle stream) {
          weights_fill(lists.view(), reinterpret_cast<uint16_t*>(masks.data()), offsets.data(),
                       weights.data(), transmittance.data(), stream_of(stream));
        },
        "lists"_a, "masks"_a.noconvert(), "offsets"_a.noconvert(), "weights"_a.noconvert(),
        "transmittance"_a.noconvert(), "stream"_a, Release());

  m.def("apply",
        [](const PyLists& lists, const PyWeights& weights, Mat values, OutMat out, bool tensor,
           Handle stream) {
          apply(lists.view(), weights.view(), values.shape(1), values.data(), out.data(),
                math_of(tensor), stream_of(stream));
        },
        "lists"_a, "weights"_a, "values"_a.noconvert(), "out"_a.noconvert(), "tensor"_a,
        "stream"_a, Release());

  m.def("apply_t_rows",
        [](const PyLists& lists, const PyWeights& weights, Mat maps, int64_t first, OutMat rows,
           bool tensor, Handle stream) {
          apply_t_rows(lists.view(), weights.view(), maps.shape(1), first,
                       static_cast<int>(rows.shape(1)), maps.data(), rows.data(), math_of(tensor),
                       stream_of(stream));
        },
        "lists"_a, "weights"_a, "maps"_a.noconvert(), "first"_a, "rows"_a.noconvert(), "tensor"_a,
        "stream"_a, Release());

  m.def("apply_t_atomic",
        [](const PyLists& lists, const PyWeights& weights, Mat maps, OutMat out, bool tensor,
           Handle stream) {
          apply_t_atomic(lists.view(), weights.view(), maps.shape(1), maps.data(), out.data(),
                         math_of(tensor), stream_of(stream));
        },
        "lists"_a, "weights"_a, "maps"_a.noconvert(), "out"_a.noconvert(), "tensor"_a, "stream"_a,
        Release());

  m.def("reduce_pairs",
        [](Ids order, Offsets pair_offsets, Mat rows, int64_t first, OutMat out, Handle stream) {
          reduce_pairs(order.shape(0), order.data(), pair_offsets.data(),
                       static_cast<int>(rows.shape(1)), rows.data(), out.shape(1), first,
                       out.data(), stream_of(stream));
        },
        "order"_a.noconvert(), "pair_offsets"_a.noconvert(), "rows"_a.noconvert(), "first"_a,
        "out"_a.noconvert(), "stream"_a, Release());

  m.def("blend_moments",
        [](const PyLists& lists, const PyWeights& weights, Mat values, Mat v_out, Mat v_alphas,
           Mat transmittance, Array<float, -1, 8> moments, Handle stream) {
          blend_moments(lists.view(), weights.view(), values.shape(1), values.data(), v_out.data(),
                        v_alphas.data(), transmittance.data(), moments.data(), stream_of(stream));
        },
        "lists"_a, "weights"_a, "values"_a.noconvert(), "v_out"_a.noconvert(),
        "v_alphas"_a.noconvert(), "transmittance"_a.noconvert(), "moments"_a.noconvert(),
        "stream"_a, Release());

  m.def("reduce_moments",
        [](Ids order, Offsets pair_offsets, Array<const float, -1, 8> moments,
           Array<const float, -1, 16> splats, Array<float, -1, 2> v_means2d,
           Array<float, -1, 3> v_conics, OutVec v_opacities, Handle stream) {
          reduce_moments(order.shape(0), order.data(), pair_offsets.data(), moments.data(),
                         splats.data(), v_means2d.data(), v_conics.data(), v_opacities.data(),
                         stream_of(stream));
        },
        "order"_a.noconvert(), "pair_offsets"_a.noconvert(), "moments"_a.noconvert(),
        "splats"_a.noconvert(), "v_means2d"_a.noconvert(), "v_conics"_a.noconvert(),
        "v_opacities"_a.noconvert(), "stream"_a, Release());

  m.def("pool_count_bytes", &pool_count_bytes, "items"_a);
  m.def("pool_count",
        [](const PyLists& lists, const PyWeights& weights, int h, int w, bool tent,
           OutOffsets counts, Scratch scratch, Handle stream) {
          return pool_count(lists.view(), weights.view(), {h, w, tent}, counts.data(),
                            scratch.data(), scratch.shape(0), stream_of(stream));
        },
        "lists"_a, "weights"_a, "h"_a, "w"_a, "tent"_a, "counts"_a.noconvert(),
        "scratch"_a.noconvert(), "stream"_a, Release());

  m.def("pool_fill_bytes", &pool_fill_bytes, "entries"_a);
  m.def("pool_fill",
        [](const PyLists& lists, const PyWeights& weights, int h, int w, bool tent, Offsets counts,
           OutOffsets row_offsets, OutIds cols, OutVec vals, Scratch scratch, Handle stream) {
          return pool_fill(lists.view(), weights.view(), {h, w, tent}, cols.shape(0),
                           counts.data(), row_offsets.data(), cols.data(), vals.data(),
                           scratch.data(), scratch.shape(0), stream_of(stream));
        },
        "lists"_a, "weights"_a, "h"_a, "w"_a, "tent"_a, "counts"_a.noconvert(),
        "row_offsets"_a.noconvert(), "cols"_a.noconvert(), "vals"_a.noconvert(),
        "scratch"_a.noconvert(), "stream"_a, Release());

  m.def("csr_apply",
        [](Offsets offsets, Ids cols, Vec vals, Mat x, bool add, OutMat out, Handle stream) {
          csr_apply(out.shape(0), offsets.data(), cols.data(), vals.data(), x.shape(1), x.data(),
                    add, out.data(), stream_of(stream));
        },
        "offsets"_a.noconvert(), "cols"_a.noconvert(), "vals"_a.noconvert(), "x"_a.noconvert(),
        "add"_a, "out"_a.noconvert(), "stream"_a, Release());

  m.def("csr_transpose_bytes", &csr_transpose_bytes, "rows"_a, "columns"_a, "entries"_a);
  m.def("csr_transpose",
        [](Offsets offsets, Ids cols, Vec vals, OutOffsets t_offsets, OutIds t_rows, OutVec t_vals,
           Scratch scratch, Handle stream) {
          csr_transpose(offsets.shape(0) - 1, t_offsets.shape(0) - 1, cols.shape(0),
                        offsets.data(), cols.data(), vals.data(), t_offsets.data(), t_rows.data(),
                        t_vals.data(), scratch.data(), scratch.shape(0), stream_of(stream));
        },
        "offsets"_a.noconvert(), "cols"_a.noconvert(), "vals"_a.noconvert(),
        "t_offsets"_a.noconvert(), "t_rows"_a.noconvert(), "t_vals"_a.noconvert(),
        "scratch"_a.noconvert(), "stream"_a, Release());
}
