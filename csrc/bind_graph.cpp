// Python bindings of the graph, over integers; names are handled in Python.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "admg.hpp"
#include "bindings.hpp"
#include "components.hpp"
#include "planning.hpp"
#include "python_arrays.hpp"
#include "separation.hpp"

namespace mdcm {
namespace {

std::unique_ptr<Admg> make_admg(Node n, py::handle tails, py::handle heads, py::handle first, py::handle second,
                                const LongArray& latent_offsets, py::handle latent_children) {
  const NodesIn tails_in(tails);
  const NodesIn heads_in(heads);
  const NodesIn first_in(first);
  const NodesIn second_in(second);
  const NodesIn children_in(latent_children);
  if (latent_offsets.ndim() != 1) throw py::value_error("the offsets of the latents must be a one-dimensional array");
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(latent_offsets.size()));
  if (!offsets.empty()) std::memcpy(offsets.data(), latent_offsets.data(), sizeof(std::int64_t) * offsets.size());
  const EdgeView edges{tails_in, heads_in, first_in, second_in, offsets, children_in};
  const py::gil_scoped_release release;
  return std::make_unique<Admg>(n, edges);
}

template <class Rule>
bool separation_rule(Rule rule, const Admg& graph, py::handle y, py::handle z, py::handle x, py::handle w) {
  const NodesIn y_in(y, graph.size());
  const NodesIn z_in(z, graph.size());
  const NodesIn x_in(x, graph.size());
  const NodesIn w_in(w, graph.size());
  const py::gil_scoped_release release;
  return rule(graph, y_in, z_in, x_in, w_in);
}

template <class Search>
IntArray cut_search(Search search, const Admg& graph, py::handle nodes, py::handle into, py::handle out_of) {
  const NodesIn nodes_in(nodes, graph.size());
  const NodesIn into_in(into, graph.size());
  const NodesIn out_of_in(out_of, graph.size());
  std::vector<Node> result;
  {
    const py::gil_scoped_release release;
    result = search(graph, nodes_in, Cut{into_in, out_of_in});
  }
  return to_array(std::move(result));
}

// The ends of named pairs as two arrays, or None if an entry is not a pair of known names, which Python then reports.
py::object index_pairs(const py::dict& index, py::handle pairs) {
  if (pairs.is_none()) throw py::type_error("edges must be a sequence of pairs, not None");
  // copies as tuples: the __eq__ of a name may change the lists
  const auto outer = py::reinterpret_steal<py::object>(PySequence_Tuple(pairs.ptr()));
  if (!outer) throw py::error_already_set();
  const Py_ssize_t size = PyTuple_GET_SIZE(outer.ptr());
  std::vector<Node> ends[2];
  ends[0].reserve(static_cast<std::size_t>(size));
  ends[1].reserve(static_cast<std::size_t>(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    PyObject* given = PyTuple_GET_ITEM(outer.ptr(), i);
    if (!PyTuple_Check(given) && !PyList_Check(given)) return py::none();
    const auto pair = py::reinterpret_steal<py::object>(PySequence_Tuple(given));
    if (!pair) throw py::error_already_set();
    if (PyTuple_GET_SIZE(pair.ptr()) != 2) return py::none();
    for (Py_ssize_t side = 0; side < 2; ++side) {
      const auto number =
          py::reinterpret_borrow<py::object>(PyDict_GetItemWithError(index.ptr(), PyTuple_GET_ITEM(pair.ptr(), side)));
      if (!number) {
        PyErr_Clear();
        return py::none();
      }
      if (!PyLong_Check(number.ptr())) throw py::type_error("the numbers of names must be integers");
      const long long value = PyLong_AsLongLong(number.ptr());
      if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
      if (value < 0 || value > std::numeric_limits<Node>::max()) {
        throw py::index_error("node " + std::to_string(value) + " is outside the range of node numbers");
      }
      ends[side].push_back(static_cast<Node>(value));
    }
  }
  return py::make_tuple(to_array(std::move(ends[0])), to_array(std::move(ends[1])));
}

py::dict projection(const Admg& graph, py::handle observed, bool shared) {
  const NodesIn observed_in(observed, graph.size());
  Edges edges;
  {
    const py::gil_scoped_release release;
    edges = latent_projection(graph, observed_in, shared ? Facets::kShared : Facets::kPairs);
  }
  py::dict result;
  result["tails"] = to_array(std::move(edges.tails));
  result["heads"] = to_array(std::move(edges.heads));
  result["first"] = to_array(std::move(edges.first));
  result["second"] = to_array(std::move(edges.second));
  result["latent_offsets"] = to_array(std::move(edges.latent_offsets));
  result["latent_children"] = to_array(std::move(edges.latent_children));
  result["latent_origin"] = to_array(std::move(edges.latent_origin));
  return result;
}

}  // namespace

void bind_graph(py::module_& m) {
  m.def("index_pairs", &index_pairs, py::arg("index"), py::arg("pairs"));
  py::class_<Admg, std::shared_ptr<Admg>>(m, "Admg", "An immutable mixed graph over the nodes 0..n-1.")
      .def(py::init(&make_admg), py::arg("n"), py::arg("tails"), py::arg("heads"), py::arg("first"), py::arg("second"),
           py::arg("latent_offsets"), py::arg("latent_children"))
      .def("__len__", &Admg::size)
      .def_property_readonly("num_directed", &Admg::num_directed)
      .def_property_readonly("num_bidirected", &Admg::num_bidirected)
      .def_property_readonly("num_hubs", &Admg::num_hubs)
      .def_property_readonly(
          "topological_order",
          [](py::handle self) { return array_view(self.cast<const Admg&>().topological_order(), self); })
      .def_property_readonly("positions",
                             [](py::handle self) { return array_view(self.cast<const Admg&>().positions(), self); })
      .def(
          "parents",
          [](py::handle self, Node v) {
            const auto& graph = self.cast<const Admg&>();
            if (!graph.contains(v)) throw py::index_error("no such node");
            return array_view(graph.parents(v), self);
          },
          py::arg("node"))
      .def(
          "children",
          [](py::handle self, Node v) {
            const auto& graph = self.cast<const Admg&>();
            if (!graph.contains(v)) throw py::index_error("no such node");
            return array_view(graph.children(v), self);
          },
          py::arg("node"))
      .def(
          "siblings",
          [](const Admg& graph, Node v) {
            if (!graph.contains(v)) throw py::index_error("no such node");
            std::vector<Node> siblings;
            for_each_sibling(graph, v, [&](Node w) {
              if (w != v) siblings.push_back(w);
            });
            std::sort(siblings.begin(), siblings.end());
            siblings.erase(std::unique(siblings.begin(), siblings.end()), siblings.end());
            return to_array(std::move(siblings));
          },
          py::arg("node"))
      .def(
          "ancestors",
          [](const Admg& graph, py::handle nodes, py::handle into, py::handle out_of) {
            return cut_search(ancestors, graph, nodes, into, out_of);
          },
          py::arg("nodes"), py::arg("into") = py::tuple(), py::arg("out_of") = py::tuple())
      .def(
          "descendants",
          [](const Admg& graph, py::handle nodes, py::handle into, py::handle out_of) {
            return cut_search(descendants, graph, nodes, into, out_of);
          },
          py::arg("nodes"), py::arg("into") = py::tuple(), py::arg("out_of") = py::tuple())
      .def(
          "c_components",
          [](const Admg& graph, py::handle into) {
            const NodesIn into_in(into, graph.size());
            Components components;
            {
              const py::gil_scoped_release release;
              components = c_components(graph, into_in);
            }
            return to_array(std::move(components.label));
          },
          py::arg("into") = py::tuple())
      .def(
          "m_separated",
          [](const Admg& graph, py::handle x, py::handle y, py::handle given, py::handle into, py::handle out_of) {
            const NodesIn x_in(x, graph.size());
            const NodesIn y_in(y, graph.size());
            const NodesIn given_in(given, graph.size());
            const NodesIn into_in(into, graph.size());
            const NodesIn out_of_in(out_of, graph.size());
            const py::gil_scoped_release release;
            return m_separated(graph, x_in, y_in, given_in, Cut{into_in, out_of_in});
          },
          py::arg("x"), py::arg("y"), py::arg("given") = py::tuple(), py::arg("into") = py::tuple(),
          py::arg("out_of") = py::tuple())
      .def(
          "rule1",
          [](const Admg& graph, py::handle y, py::handle z, py::handle x, py::handle w) {
            return separation_rule(rule1, graph, y, z, x, w);
          },
          py::arg("y"), py::arg("z"), py::arg("x"), py::arg("w"))
      .def(
          "rule2",
          [](const Admg& graph, py::handle y, py::handle z, py::handle x, py::handle w) {
            return separation_rule(rule2, graph, y, z, x, w);
          },
          py::arg("y"), py::arg("z"), py::arg("x"), py::arg("w"))
      .def(
          "rule3",
          [](const Admg& graph, py::handle y, py::handle z, py::handle x, py::handle w) {
            return separation_rule(rule3, graph, y, z, x, w);
          },
          py::arg("y"), py::arg("z"), py::arg("x"), py::arg("w"))
      .def("latent_projection", &projection, py::arg("observed"), py::arg("shared") = false)
      .def(
          "paper_set",
          [](const Admg& graph, py::handle nodes) {
            const NodesIn nodes_in(nodes, graph.size());
            std::vector<Node> added;
            {
              const py::gil_scoped_release release;
              added = paper_set(graph, nodes_in);
            }
            return to_array(std::move(added));
          },
          py::arg("nodes"));
}

}  // namespace mdcm
