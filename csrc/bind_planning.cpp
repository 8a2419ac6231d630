// Python bindings of the planner: modularity sets, h-graphs, and groups of data sets.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "planning.hpp"
#include "python_arrays.hpp"

namespace mdcm {
namespace {

// An h-graph, and the graph that it refers to.
struct BoundHGraph {
  std::shared_ptr<const Admg> graph;
  HGraph hgraph;
};

// Converts an entry of a group.
template <class T>
T entry(const py::dict& source, const char* key, const char* what) {
  if (!source.contains(key)) throw py::value_error(std::string("a group of data sets needs an entry '") + key + "'");
  try {
    return source[key].cast<T>();
  } catch (const py::cast_error&) {
    throw py::type_error(std::string("'") + key + "' must be " + what);
  }
}

// Checks that every part has a node and that no c-component lies in two parts.
void check_parts(const Admg& graph, Nodes labels, std::size_t count) {
  std::vector<bool> used(count, false);
  for (const Node label : labels) used[static_cast<std::size_t>(label)] = true;
  if (std::find(used.begin(), used.end(), false) != used.end()) throw py::value_error("a part has no node");
  const Components components = c_components(graph);
  std::vector<Node> part(static_cast<std::size_t>(components.count), -1);
  for (std::size_t v = 0; v < labels.size(); ++v) {
    Node& known = part[static_cast<std::size_t>(components.label[v])];
    if (known >= 0 && known != labels[v]) throw py::value_error("a c-component lies in two parts");
    known = labels[v];
  }
}

std::unique_ptr<BoundHGraph> make_hgraph(std::shared_ptr<Admg> graph, py::handle parts,
                                         const py::array_t<std::uint8_t, py::array::c_style>& training,
                                         const std::vector<py::dict>& groups, bool paper) {
  if (training.ndim() != 1) throw py::value_error("the ways of training must be a one-dimensional array");
  if (training.size() > graph->size()) throw py::value_error("there are more ways of training than nodes");
  const NodesIn parts_in(parts, static_cast<Node>(training.size()));
  const Nodes labels = parts_in;
  if (labels.size() != static_cast<std::size_t>(graph->size())) throw py::value_error("one part per node is needed");
  check_parts(*graph, labels, static_cast<std::size_t>(training.size()));
  std::vector<Training> ways;
  for (py::ssize_t i = 0; i < training.size(); ++i) {
    if (training.data()[i] > static_cast<std::uint8_t>(Training::kGiven)) throw py::value_error("no such training");
    ways.push_back(static_cast<Training>(training.data()[i]));
  }
  std::vector<DatasetGroup> data;
  for (const py::dict& group : groups) data.push_back(parse_group(group, graph->size()));
  const auto intervenes = [](const DatasetGroup& group) { return !group.targets.empty(); };
  if (paper && std::any_of(data.begin(), data.end(), intervenes)) {
    throw py::value_error("the paper's method takes no data sets under do()");
  }
  const py::gil_scoped_release release;
  Components initial{std::vector<Node>(labels.begin(), labels.end()), static_cast<Node>(ways.size())};
  HGraph hgraph(*graph, std::move(initial), std::move(ways), std::move(data),
                paper ? Method::kPaper : Method::kMinimal);
  return std::make_unique<BoundHGraph>(BoundHGraph{std::move(graph), std::move(hgraph)});
}

py::list fits_of(const BoundHGraph& self, Node h) {
  if (h < 0 || h >= self.hgraph.size()) throw py::index_error("no such h-node");
  py::list result;
  if (self.hgraph.has_plain_fits()) return result;
  for (const PlannedFit& fit : self.hgraph.fits(h)) {
    result.append(
        py::make_tuple(to_array(std::vector<Node>(fit.variables)), to_array(std::vector<std::int32_t>(fit.groups))));
  }
  return result;
}

// The h-node that no data determine with the reason by group, or None.
py::object untrained_of(const BoundHGraph& self) {
  const Untrained& untrained = self.hgraph.untrained();
  if (untrained.hnode < 0) return py::none();
  static constexpr const char* kNames[] = {"nothing", "columns", "inside", "values", "factor"};
  py::list missing;
  for (const Missing& entry : untrained.missing) {
    missing.append(
        py::make_tuple(kNames[static_cast<std::size_t>(entry.kind)], to_array(std::vector<Node>(entry.nodes))));
  }
  return py::make_tuple(untrained.hnode, missing);
}

py::array_t<Node> edge_array(const BoundHGraph& self) {
  std::vector<Node> flat;
  {
    const py::gil_scoped_release release;
    for (const auto& [source, target] : self.hgraph.edges()) {
      flat.push_back(source);
      flat.push_back(target);
    }
  }
  const auto rows = static_cast<py::ssize_t>(flat.size() / 2);
  return to_array(std::move(flat)).reshape({rows, py::ssize_t{2}});
}

// A modularity closure with its scratch memory. It runs without the interpreter's lock, so a separate lock excludes
// other threads; to avoid a deadlock, that lock is taken only while the interpreter's is released.
class BoundClosure {
 public:
  explicit BoundClosure(std::shared_ptr<Admg> graph) : graph_(std::move(graph)), closure_(*graph_) {}

  IntArray run(py::handle nodes, py::handle into) {
    const NodesIn nodes_in(nodes, graph_->size());
    const NodesIn into_in(into, graph_->size());
    std::vector<Node> added;
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(mutex_);
      closure_.run(nodes_in, into_in);
      added.assign(closure_.added().begin(), closure_.added().end());
    }
    return to_array(std::move(added));
  }

  py::tuple witness(Node q) {
    Witness witness;
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(mutex_);
      const Nodes added = closure_.added();
      if (std::find(added.begin(), added.end(), q) == added.end()) {
        throw py::index_error("node " + std::to_string(q) + " was not added to the set");
      }
      witness = closure_.witness(q);
    }
    return py::make_tuple(to_array(std::move(witness.path)), witness.ends_bidirected);
  }

 private:
  std::shared_ptr<const Admg> graph_;
  ModularityClosure closure_;
  std::mutex mutex_;
};

}  // namespace

DatasetGroup parse_group(const py::dict& source, Node n) {
  DatasetGroup group;
  const auto numbers = entry<py::object>(source, "targets", "node numbers");
  const NodesIn targets(numbers, n);
  const Nodes view = targets;
  group.targets.assign(view.begin(), view.end());
  const auto columns = entry<py::object>(source, "columns", "flags or None");
  if (!columns.is_none()) {
    if (!py::isinstance<py::array>(columns)) throw py::type_error("'columns' must be an array of uint8, or None");
    const auto flags =
        entry<py::array_t<std::uint8_t, py::array::c_style>>(source, "columns", "an array of uint8, or None");
    if (flags.ndim() != 1 || flags.size() != n) throw py::value_error("one flag per node is needed");
    group.columns.assign(flags.data(), flags.data() + flags.size());
  }
  group.domain = entry<std::vector<std::int32_t>>(source, "domain", "a list of 32-bit integers");
  const char* const nested = "a list of lists of lists of 32-bit integers";
  for (const auto& levels : entry<std::vector<std::vector<std::vector<std::int32_t>>>>(source, "boxes", nested)) {
    if (levels.size() != view.size()) throw py::value_error("one list of levels per target is needed");
    group.boxes.push_back({levels});
  }
  if (group.domain.size() != view.size()) throw py::value_error("one number of levels per target is needed");
  if (std::any_of(group.domain.begin(), group.domain.end(), [](std::int32_t levels) { return levels < 0; })) {
    throw py::value_error("a number of levels is negative");
  }
  const auto not_ascending = [](Node a, Node b) { return a >= b; };
  if (std::adjacent_find(view.begin(), view.end(), not_ascending) != view.end()) {
    throw py::value_error("targets must be ascending, each once");
  }
  group.rows = entry<std::int64_t>(source, "rows", "an integer");
  if (group.rows < -1) throw py::value_error("a number of rows is negative");
  return group;
}

void bind_planning(py::module_& m) {
  py::class_<BoundClosure>(m, "ModularityClosure", "Smallest modularity sets, with scratch memory that is reused.")
      .def(py::init<std::shared_ptr<Admg>>(), py::arg("graph").none(false))
      .def("run", &BoundClosure::run, py::arg("nodes"), py::arg("into") = py::tuple())
      .def("witness", &BoundClosure::witness, py::arg("node"));

  py::class_<BoundHGraph>(m, "HGraph", "Sets of nodes that are trained together, and what each needs.")
      .def(py::init(&make_hgraph), py::arg("graph").none(false), py::arg("parts"), py::arg("training"),
           py::arg("groups"), py::arg("paper") = false)
      .def("__len__", [](const BoundHGraph& self) { return self.hgraph.size(); })
      .def_property_readonly(
          "labels", [](py::handle self) { return array_view(self.cast<const BoundHGraph&>().hgraph.labels(), self); })
      .def_property_readonly(
          "levels", [](py::handle self) { return array_view(self.cast<const BoundHGraph&>().hgraph.levels(), self); })
      .def_property_readonly("training",
                             [](const BoundHGraph& self) {
                               std::vector<std::uint8_t> ways;
                               for (Node h = 0; h < self.hgraph.size(); ++h) {
                                 ways.push_back(static_cast<std::uint8_t>(self.hgraph.training(h)));
                               }
                               return to_array(std::move(ways));
                             })
      .def_property_readonly("rounds", [](const BoundHGraph& self) { return self.hgraph.rounds(); })
      .def_property_readonly("plain", [](const BoundHGraph& self) { return self.hgraph.has_plain_fits(); })
      .def_property_readonly("untrained", &untrained_of)
      .def("fits", &fits_of, py::arg("hnode"))
      .def("edges", &edge_array);
}

}  // namespace mdcm
