// The Python module mdcm._core: integers in, integers out, errors with their evidence. Names stay in Python.

#include "bindings.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "admg.hpp"
#include "components.hpp"
#include "identify.hpp"
#include "planning.hpp"
#include "separation.hpp"

namespace py = pybind11;

namespace mdcm {
namespace {

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
  static Node checked(long long value) {
    if (value < std::numeric_limits<Node>::min() || value > std::numeric_limits<Node>::max()) {
      throw py::index_error("node " + std::to_string(value) + " does not fit into 32 bits");
    }
    return static_cast<Node>(value);
  }

  void from_array(const py::array& array) {
    if (array.ndim() != 1) throw py::value_error("node numbers must be a one-dimensional array");
    if (py::isinstance<IntArray>(array) && is_aligned<Node>(array)) {
      kept_ = array;
      view_ = {static_cast<const Node*>(array.data()), static_cast<std::size_t>(array.size())};
      return;
    }
    if (array.size() == 0) return;
    const char kind = array.dtype().kind();
    if (kind != 'i' && kind != 'u') throw py::type_error("node numbers must be integers");
    const auto wide = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>(array);
    owned_.reserve(static_cast<std::size_t>(wide.size()));
    for (py::ssize_t i = 0; i < wide.size(); ++i) owned_.push_back(checked(wide.data()[i]));
    view_ = owned_;
  }

  void from_sequence(py::handle source) {
    if (source.is_none()) throw py::type_error("node numbers must be a sequence or an array of integers, not None");
    // a tuple of its own: the __index__ of an element may change the list that it is in
    const auto fixed = py::reinterpret_steal<py::object>(PySequence_Tuple(source.ptr()));
    if (!fixed) throw py::error_already_set();
    const Py_ssize_t size = PyTuple_GET_SIZE(fixed.ptr());
    owned_.reserve(static_cast<std::size_t>(size));
    for (Py_ssize_t i = 0; i < size; ++i) {
      const long long value = PyLong_AsLongLong(PyTuple_GET_ITEM(fixed.ptr(), i));
      if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
      owned_.push_back(checked(value));
    }
    view_ = owned_;
  }

  py::object kept_;
  std::vector<Node> owned_;
  Nodes view_;
};

// Hands a vector to numpy without a copy.
template <class T>
py::array_t<T> moved(std::vector<T>&& values) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  T* data = owned->data();
  const auto size = static_cast<py::ssize_t>(owned->size());
  const py::capsule keeper(owned.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(size, data, keeper);
}

// A read-only array over memory that the graph owns and keeps alive.
IntArray borrowed(Nodes view, py::handle owner) {
  IntArray array(static_cast<py::ssize_t>(view.size()), view.data(), owner);
  array.attr("setflags")(py::arg("write") = false);
  return array;
}

const char* name_of(GraphFault::Kind kind) {
  switch (kind) {
    case GraphFault::Kind::kCycle:
      return "cycle";
    case GraphFault::Kind::kSelfLoop:
      return "self-loop";
    case GraphFault::Kind::kUnknownNode:
      return "unknown node";
    case GraphFault::Kind::kRepeatedPair:
      return "repeated pair";
    case GraphFault::Kind::kTooLarge:
      return "too large";
  }
  return "fault";
}

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
  std::vector<Node> found;
  {
    const py::gil_scoped_release release;
    found = search(graph, nodes_in, Cut{into_in, out_of_in});
  }
  return moved(std::move(found));
}

// The ends of named pairs as two arrays, or None where a pair is not two known names: Python then says which.
py::object index_pairs(const py::dict& index, py::handle pairs) {
  if (pairs.is_none()) throw py::type_error("edges must be a sequence of pairs, not None");
  // tuples of its own: the __eq__ of a name may change the lists that it is in
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
  return py::make_tuple(moved(std::move(ends[0])), moved(std::move(ends[1])));
}

// An h-graph and the graph it reads.
struct BoundHGraph {
  std::shared_ptr<const Admg> graph;
  HGraph hgraph;
};

// An entry of a group as a C++ value.
template <class T>
T entry(const py::dict& source, const char* key, const char* what) {
  if (!source.contains(key)) throw py::value_error(std::string("a group of data sets needs an entry '") + key + "'");
  try {
    return source[key].cast<T>();
  } catch (const py::cast_error&) {
    throw py::type_error(std::string("'") + key + "' must be " + what);
  }
}

DatasetGroup group_from(const py::dict& source, Node n) {
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

// Labels of nodes that an h-graph can start from: every part has a node, and no c-component lies in two parts.
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
  for (const py::dict& group : groups) data.push_back(group_from(group, graph->size()));
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
  py::list found;
  if (self.hgraph.has_plain_fits()) return found;
  for (const PlannedFit& fit : self.hgraph.fits(h)) {
    found.append(py::make_tuple(moved(std::vector<Node>(fit.variables)), moved(std::vector<std::int32_t>(fit.groups))));
  }
  return found;
}

// The h-node that no data can teach and what every group lacks, or None.
py::object untrained_of(const BoundHGraph& self) {
  const Untrained& untrained = self.hgraph.untrained();
  if (untrained.hnode < 0) return py::none();
  static constexpr const char* kNames[] = {"nothing", "columns", "inside", "values", "factor"};
  py::list lacks;
  for (const Lack& lack : untrained.lacks) {
    lacks.append(py::make_tuple(kNames[static_cast<std::size_t>(lack.kind)], moved(std::vector<Node>(lack.nodes))));
  }
  return py::make_tuple(untrained.hnode, lacks);
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
  return moved(std::move(flat)).reshape({rows, py::ssize_t{2}});
}

// A modularity closure with its scratch memory, for one set after another. The interpreter's lock is released while it
// runs, so that a lock of its own keeps threads apart; it is taken only when the interpreter's is not held.
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
    return moved(std::move(added));
  }

  py::tuple witness(Node q) {
    Witness found;
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(mutex_);
      const Nodes added = closure_.added();
      if (std::find(added.begin(), added.end(), q) == added.end()) {
        throw py::index_error("node " + std::to_string(q) + " was not added to the set");
      }
      found = closure_.witness(q);
    }
    return py::make_tuple(moved(std::move(found.path)), found.ends_bidirected);
  }

 private:
  std::shared_ptr<const Admg> graph_;
  ModularityClosure closure_;
  std::mutex mutex_;
};

py::dict projection(const Admg& graph, py::handle observed, bool shared) {
  const NodesIn observed_in(observed, graph.size());
  Edges edges;
  {
    const py::gil_scoped_release release;
    edges = latent_projection(graph, observed_in, shared ? Facets::kShared : Facets::kPairs);
  }
  py::dict result;
  result["tails"] = moved(std::move(edges.tails));
  result["heads"] = moved(std::move(edges.heads));
  result["first"] = moved(std::move(edges.first));
  result["second"] = moved(std::move(edges.second));
  result["latent_offsets"] = moved(std::move(edges.latent_offsets));
  result["latent_children"] = moved(std::move(edges.latent_children));
  result["latent_origin"] = moved(std::move(edges.latent_origin));
  return result;
}

// A question, the data for it, and what was found.
class BoundIdentification {
 public:
  BoundIdentification(std::shared_ptr<Admg> graph, const std::vector<py::dict>& groups,
                      const std::vector<std::pair<Node, std::int32_t>>& values,
                      const std::vector<std::vector<std::tuple<Node, Symbol, std::int32_t>>>& worlds,
                      const std::vector<std::tuple<Symbol, std::int32_t, bool>>& atoms, bool all)
      : graph_(std::move(graph)) {
    const Node n = graph_->size();
    for (const py::dict& group : groups) groups_.push_back(group_from(group, n));
    const auto check = [](bool holds) {
      if (!holds) throw py::index_error("the question names what does not exist");
    };
    constexpr auto kMost = static_cast<std::size_t>(std::numeric_limits<Symbol>::max() / 2);
    if (values.size() > kMost || worlds.size() > kMost) throw py::value_error("the question is too large");
    const auto num_symbols = n + static_cast<Symbol>(values.size());
    const auto num_worlds = static_cast<std::int32_t>(worlds.size());
    for (const auto& [node, level] : values) {
      check(graph_->contains(node) && level >= Question::kForeign);
      question_.values.push_back({node, level});
    }
    const auto node_of = [&](Symbol s) { return s < n ? s : question_.values[static_cast<std::size_t>(s - n)].node; };
    for (const auto& world : worlds) {
      auto& settings = question_.worlds.emplace_back();
      std::vector<Node> set;
      for (const auto& [node, symbol, other] : world) {
        check(graph_->contains(node) && symbol < num_symbols && (symbol >= 0 || (other >= 0 && other < num_worlds)));
        if (symbol >= 0 && node_of(symbol) != node) throw py::value_error("a node is set to a value of another node");
        settings.push_back({node, symbol, other});
        set.push_back(node);
      }
      std::sort(set.begin(), set.end());
      if (std::adjacent_find(set.begin(), set.end()) != set.end()) {
        throw py::value_error("a world sets a node twice");
      }
    }
    check_worlds();
    for (const auto& [symbol, world, given] : atoms) {
      check(symbol >= 0 && symbol < num_symbols && world >= 0 && world < num_worlds);
      question_.atoms.push_back({symbol, world, given});
    }
    const py::gil_scoped_release release;
    found_ = std::make_unique<Identification>(*graph_, groups_, question_, all);
  }

  // A world that takes a value from a world that takes one from it would never have any: Kahn's order must exist.
  void check_worlds() const {
    std::vector<std::size_t> open(question_.worlds.size(), 0);
    for (const auto& world : question_.worlds) {
      for (const auto& setting : world) {
        if (setting.symbol < 0) ++open[static_cast<std::size_t>(setting.world)];
      }
    }
    std::vector<std::size_t> ready;
    for (std::size_t w = 0; w < open.size(); ++w) {
      if (open[w] == 0) ready.push_back(w);
    }
    for (std::size_t i = 0; i < ready.size(); ++i) {
      for (const auto& setting : question_.worlds[ready[i]]) {
        if (setting.symbol < 0 && --open[static_cast<std::size_t>(setting.world)] == 0) {
          ready.push_back(static_cast<std::size_t>(setting.world));
        }
      }
    }
    if (ready.size() != open.size()) throw py::value_error("worlds take values from each other in a circle");
  }

  const char* verdict() const {
    static constexpr const char* kNames[] = {"yes", "no", "impossible"};
    return kNames[static_cast<std::size_t>(found_->verdict())];
  }

  py::list failures() const {
    static constexpr const char* kNames[] = {"none", "inside", "columns", "hedge", "values"};
    py::list result;
    for (const Identification::Failure& failure : found_->failures()) {
      py::list obstacles;
      for (const Obstacle& obstacle : failure.obstacles) {
        obstacles.append(py::make_tuple(kNames[static_cast<std::size_t>(obstacle.kind)], py::cast(obstacle.nodes)));
      }
      py::object conflict = py::none();
      if (failure.conflict) {
        py::list members;
        for (const auto& member : failure.conflict->members) {
          members.append(py::make_tuple(member.value, py::cast(member.parents)));
        }
        conflict = py::make_tuple(failure.conflict->variable, failure.conflict->first, failure.conflict->second,
                                  std::move(members));
      }
      result.append(py::make_tuple(py::cast(failure.factor), std::move(obstacles), std::move(conflict)));
    }
    return result;
  }

  py::list symbols() const {
    py::list result;
    const auto& nodes = found_->symbols().nodes();
    for (std::size_t s = static_cast<std::size_t>(graph_->size()); s < nodes.size(); ++s) result.append(nodes[s]);
    return result;
  }

  py::list terms() {
    static constexpr const char* kNames[] = {"probability", "product", "quotient", "sum", "any", "cases", "equal"};
    if (found_->verdict() != Identification::Verdict::kYes) throw py::value_error("there is no estimand");
    Expression expression;
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(mutex_);
      expression = found_->express();
    }
    py::list result;
    for (const Expression::Term& term : expression.terms) {
      result.append(py::make_tuple(kNames[static_cast<std::size_t>(term.kind)], term.source, py::cast(term.symbols),
                                   py::cast(term.given), py::cast(term.set), py::cast(term.operands)));
    }
    return result;
  }

 private:
  std::shared_ptr<const Admg> graph_;
  std::vector<DatasetGroup> groups_;
  Question question_;
  std::unique_ptr<Identification> found_;
  std::mutex mutex_;
};

void bind_graph(py::module_& m) {
  py::class_<Admg, std::shared_ptr<Admg>>(m, "Admg", "An immutable mixed graph over the nodes 0..n-1.")
      .def(py::init(&make_admg), py::arg("n"), py::arg("tails"), py::arg("heads"), py::arg("first"), py::arg("second"),
           py::arg("latent_offsets"), py::arg("latent_children"))
      .def("__len__", &Admg::size)
      .def_property_readonly("num_directed", &Admg::num_directed)
      .def_property_readonly("num_bidirected", &Admg::num_bidirected)
      .def_property_readonly("num_hubs", &Admg::num_hubs)
      .def_property_readonly(
          "topological_order",
          [](py::handle self) { return borrowed(self.cast<const Admg&>().topological_order(), self); })
      .def_property_readonly("positions",
                             [](py::handle self) { return borrowed(self.cast<const Admg&>().positions(), self); })
      .def(
          "parents",
          [](py::handle self, Node v) {
            const auto& graph = self.cast<const Admg&>();
            if (!graph.contains(v)) throw py::index_error("no such node");
            return borrowed(graph.parents(v), self);
          },
          py::arg("node"))
      .def(
          "children",
          [](py::handle self, Node v) {
            const auto& graph = self.cast<const Admg&>();
            if (!graph.contains(v)) throw py::index_error("no such node");
            return borrowed(graph.children(v), self);
          },
          py::arg("node"))
      .def(
          "siblings",
          [](const Admg& graph, Node v) {
            if (!graph.contains(v)) throw py::index_error("no such node");
            std::vector<Node> found;
            for_each_sibling(graph, v, [&](Node w) {
              if (w != v) found.push_back(w);
            });
            std::sort(found.begin(), found.end());
            found.erase(std::unique(found.begin(), found.end()), found.end());
            return moved(std::move(found));
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
            return moved(std::move(components.label));
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
            return moved(std::move(added));
          },
          py::arg("nodes"));
}

void bind_planning(py::module_& m) {
  py::class_<BoundClosure>(m, "ModularityClosure", "Finds the smallest modularity sets of one set after another.")
      .def(py::init<std::shared_ptr<Admg>>(), py::arg("graph").none(false))
      .def("run", &BoundClosure::run, py::arg("nodes"), py::arg("into") = py::tuple())
      .def("witness", &BoundClosure::witness, py::arg("node"));

  py::class_<BoundHGraph>(m, "HGraph", "Sets of nodes that are trained together, and what each needs.")
      .def(py::init(&make_hgraph), py::arg("graph").none(false), py::arg("parts"), py::arg("training"),
           py::arg("groups"), py::arg("paper") = false)
      .def("__len__", [](const BoundHGraph& self) { return self.hgraph.size(); })
      .def_property_readonly(
          "labels", [](py::handle self) { return borrowed(self.cast<const BoundHGraph&>().hgraph.labels(), self); })
      .def_property_readonly(
          "levels", [](py::handle self) { return borrowed(self.cast<const BoundHGraph&>().hgraph.levels(), self); })
      .def_property_readonly("training",
                             [](const BoundHGraph& self) {
                               std::vector<std::uint8_t> ways;
                               for (Node h = 0; h < self.hgraph.size(); ++h) {
                                 ways.push_back(static_cast<std::uint8_t>(self.hgraph.training(h)));
                               }
                               return moved(std::move(ways));
                             })
      .def_property_readonly("rounds", [](const BoundHGraph& self) { return self.hgraph.rounds(); })
      .def_property_readonly("plain", [](const BoundHGraph& self) { return self.hgraph.has_plain_fits(); })
      .def_property_readonly("untrained", &untrained_of)
      .def("fits", &fits_of, py::arg("hnode"))
      .def("edges", &edge_array);
}

void bind_identification(py::module_& m) {
  py::class_<BoundIdentification>(m, "Identification", "Whether data determine the answer to a question, and how.")
      .def(py::init<std::shared_ptr<Admg>, const std::vector<py::dict>&,
                    const std::vector<std::pair<Node, std::int32_t>>&,
                    const std::vector<std::vector<std::tuple<Node, Symbol, std::int32_t>>>&,
                    const std::vector<std::tuple<Symbol, std::int32_t, bool>>&, bool>(),
           py::arg("graph").none(false), py::arg("groups"), py::arg("values"), py::arg("worlds"), py::arg("atoms"),
           py::arg("all") = false)
      .def_property_readonly("verdict", &BoundIdentification::verdict)
      .def_property_readonly("failures", &BoundIdentification::failures)
      .def_property_readonly("symbols", &BoundIdentification::symbols)
      .def("terms", &BoundIdentification::terms);
}

}  // namespace
}  // namespace mdcm

PYBIND11_MODULE(_core, m) {
  m.doc() = "Compiled graph algorithms and planning over integer nodes.";

  // raised with (kind, nodes, index) as its arguments
  static py::handle too_large =
      py::exception<mdcm::ExpressionTooLarge>(m, "ExpressionTooLarge", PyExc_ValueError).release();
  py::register_exception_translator([](std::exception_ptr raised) {
    try {
      if (raised) std::rethrow_exception(raised);
    } catch (const mdcm::ExpressionTooLarge& error) {
      PyErr_SetString(too_large.ptr(), error.what());
    }
  });
  static py::handle fault = py::exception<mdcm::GraphFault>(m, "GraphFault", PyExc_ValueError).release();
  py::register_exception_translator([](std::exception_ptr raised) {
    try {
      if (raised) std::rethrow_exception(raised);
    } catch (const mdcm::GraphFault& error) {
      const py::tuple evidence = py::make_tuple(mdcm::name_of(error.kind()), error.nodes(), error.index());
      PyErr_SetObject(fault.ptr(), evidence.ptr());
    }
  });

  m.def("index_pairs", &mdcm::index_pairs, py::arg("index"), py::arg("pairs"));
  mdcm::bind_graph(m);
  mdcm::bind_planning(m);
  mdcm::bind_identification(m);
  mdcm::bind_strata(m);
}
