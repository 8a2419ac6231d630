// Python bindings of strata of two samples; arrays must have the exact types.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <cstdint>
#include <string>

#include "bindings.hpp"
#include "strata.hpp"

namespace py = pybind11;

namespace mdcm {
namespace {

constexpr py::ssize_t kMostLeaves = 1 << 16;
constexpr std::int64_t kMostBins = 1 << 24;

template <class T>
std::span<const T> checked_view(const py::object& source, const char* name, py::ssize_t axes) {
  using Array = py::array_t<T, py::array::c_style>;
  if (!py::isinstance<Array>(source)) {
    throw py::type_error(std::string(name) + " must be a contiguous array of " +
                         py::cast<std::string>(py::str(py::dtype::of<T>())));
  }
  const auto array = py::reinterpret_borrow<py::array>(source);
  if (array.ndim() != axes) {
    throw py::value_error(std::string(name) + " must have " + std::to_string(axes) + " axes, not " +
                          std::to_string(array.ndim()));
  }
  if (reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) != 0) {
    throw py::value_error(std::string(name) + " is not aligned in memory");
  }
  return {static_cast<const T*>(array.data()), static_cast<std::size_t>(array.size())};
}

void check_bins(std::span<const std::int32_t> bins, std::span<const std::int32_t> sizes, const char* name) {
  for (std::size_t i = 0; i < bins.size(); ++i) {
    if (bins[i] < 0 || bins[i] >= sizes[i % sizes.size()]) {
      throw py::index_error(std::string(name) + " has bin " + std::to_string(bins[i]) + " in a column of " +
                            std::to_string(sizes[i % sizes.size()]));
    }
  }
}

void check_weights(std::span<const double> weights, const char* name) {
  for (const double weight : weights) {
    if (!std::isfinite(weight) || weight < 0) {
      throw py::value_error(std::string(name) + " must be finite and not negative");
    }
  }
}

template <class T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::tuple grow(const py::object& draw_bins, const py::object& row_bins, const py::object& share,
               const py::object& counts, const py::object& sizes, const py::object& ordered, py::ssize_t most,
               double expected, double least) {
  const TwoSamples samples{checked_view<std::int32_t>(draw_bins, "draw_bins", 2),
                           checked_view<std::int32_t>(row_bins, "row_bins", 2),
                           checked_view<double>(share, "share", 1),
                           checked_view<double>(counts, "counts", 1),
                           checked_view<std::int32_t>(sizes, "sizes", 1),
                           checked_view<std::uint8_t>(ordered, "ordered", 1)};
  const auto columns = samples.sizes.size();
  if (columns == 0) throw py::value_error("there must be a column");
  std::int64_t bins = 0;
  for (const auto size : samples.sizes) {
    if (size < 1) throw py::value_error("a column must have a bin");
    bins += size;
  }
  if (bins > kMostBins) throw py::value_error("there are more than " + std::to_string(kMostBins) + " bins");
  const auto wide = static_cast<py::ssize_t>(columns);
  if (py::reinterpret_borrow<py::array>(draw_bins).shape(1) != wide ||
      py::reinterpret_borrow<py::array>(row_bins).shape(1) != wide || samples.ordered.size() != columns ||
      samples.draw_bins.size() != samples.share.size() * columns ||
      samples.row_bins.size() != samples.counts.size() * columns) {
    throw py::value_error("draws, rows, weights and columns do not fit each other");
  }
  if (samples.share.size() > UINT32_MAX || samples.counts.size() > UINT32_MAX) {
    throw py::value_error("there are more than 2^32 draws or rows");
  }
  if (most < 1 || most > kMostLeaves) throw py::value_error("most must be from 1 to " + std::to_string(kMostLeaves));
  if (!std::isfinite(expected) || expected < 0 || !std::isfinite(least)) {
    throw py::value_error("expected and least must be finite numbers, expected not negative");
  }
  check_bins(samples.draw_bins, samples.sizes, "draw_bins");
  check_bins(samples.row_bins, samples.sizes, "row_bins");
  check_weights(samples.share, "share");
  check_weights(samples.counts, "counts");
  // another thread could write to the arrays, so the interpreter's lock is held; growing takes milliseconds
  const Strata strata = grow_strata(samples, {static_cast<std::size_t>(most), expected, least});
  py::list splits;
  for (const auto& split : strata.splits) {
    splits.append(py::make_tuple(split.leaf, split.column, to_array(split.stays)));
  }
  return py::make_tuple(splits, to_array(strata.leaf_of_draw), to_array(strata.leaf_of_row));
}

}  // namespace

void bind_strata(py::module_& m) {
  m.def("grow_strata", &grow, py::arg("draw_bins"), py::arg("row_bins"), py::arg("share"), py::arg("counts"),
        py::arg("sizes"), py::arg("ordered"), py::arg("most"), py::arg("expected"), py::arg("least"));
}

}  // namespace mdcm
