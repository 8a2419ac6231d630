// Conversions for all parts of the module: node numbers to views, vectors to arrays, and groups of data sets.

#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "admg.hpp"
#include "fits.hpp"

namespace mdcm {

namespace py = pybind11;

using IntArray = py::array_t<Node, py::array::c_style>;
using LongArray = py::array_t<std::int64_t, py::array::c_style>;

template <class T>
bool is_aligned(const py::array& array) {
  return reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) == 0;
}

// Node numbers from Python: a one-dimensional int32 array is used in place, anything else is copied once.
class NodesIn {
 public:
  NodesIn(py::handle source, Node n) : NodesIn(source) {
    for (const Node v : view_) {
      if (v < 0 || v >= n) {
        throw py::index_error("node " + std::to_string(v) + " is outside a graph of " + std::to_string(n) + " nodes");
      }
    }
  }

  explicit NodesIn(py::handle source) {
    if (py::isinstance<py::array>(source)) {
      from_array(py::reinterpret_borrow<py::array>(source));
    } else {
      from_sequence(source);
    }
  }

  NodesIn(const NodesIn&) = delete;
  NodesIn& operator=(const NodesIn&) = delete;

  operator Nodes() const { return view_; }  // NOLINT(google-explicit-constructor)

 private:
  static Node to_node(long long value) {
    if (value < std::numeric_limits<Node>::min() || value > std::numeric_limits<Node>::max()) {
      throw py::index_error("node " + std::to_string(value) + " does not fit into 32 bits");
    }
    return static_cast<Node>(value);
  }

  void from_array(const py::array& array) {
    if (array.ndim() != 1) throw py::value_error("node numbers must be a one-dimensional array");
    if (py::isinstance<IntArray>(array) && is_aligned<Node>(array)) {
      array_ = array;
      view_ = {static_cast<const Node*>(array.data()), static_cast<std::size_t>(array.size())};
      return;
    }
    if (array.size() == 0) return;
    const char kind = array.dtype().kind();
    if (kind != 'i' && kind != 'u') throw py::type_error("node numbers must be integers");
    const auto wide = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>(array);
    owned_.reserve(static_cast<std::size_t>(wide.size()));
    for (py::ssize_t i = 0; i < wide.size(); ++i) owned_.push_back(to_node(wide.data()[i]));
    view_ = owned_;
  }

  void from_sequence(py::handle source) {
    if (source.is_none()) throw py::type_error("node numbers must be a sequence or an array of integers, not None");
    // a copy as a tuple: the __index__ of an element may change the list
    const auto fixed = py::reinterpret_steal<py::object>(PySequence_Tuple(source.ptr()));
    if (!fixed) throw py::error_already_set();
    const Py_ssize_t size = PyTuple_GET_SIZE(fixed.ptr());
    owned_.reserve(static_cast<std::size_t>(size));
    for (Py_ssize_t i = 0; i < size; ++i) {
      const long long value = PyLong_AsLongLong(PyTuple_GET_ITEM(fixed.ptr(), i));
      if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
      owned_.push_back(to_node(value));
    }
    view_ = owned_;
  }

  py::object array_;
  std::vector<Node> owned_;
  Nodes view_;
};

// Moves a vector into a numpy array without a copy.
template <class T>
py::array_t<T> to_array(std::vector<T>&& values) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  T* data = owned->data();
  const auto size = static_cast<py::ssize_t>(owned->size());
  const py::capsule keeper(owned.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(size, data, keeper);
}

// A read-only array over memory of `owner`, which it keeps alive.
inline IntArray array_view(Nodes view, py::handle owner) {
  IntArray array(static_cast<py::ssize_t>(view.size()), view.data(), owner);
  array.attr("setflags")(py::arg("write") = false);
  return array;
}

// Validates and converts a group of data sets.
DatasetGroup parse_group(const py::dict& source, Node n);

}  // namespace mdcm
