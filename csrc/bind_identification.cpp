// Python bindings of identification: verdicts, witnesses and the terms of an estimand.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "identify.hpp"
#include "python_arrays.hpp"

namespace mdcm {
namespace {

// A question, its data sets, and the result.
class BoundIdentification {
 public:
  BoundIdentification(std::shared_ptr<Admg> graph, const std::vector<py::dict>& groups,
                      const std::vector<std::pair<Node, std::int32_t>>& values,
                      const std::vector<std::vector<std::tuple<Node, Symbol, std::int32_t>>>& worlds,
                      const std::vector<std::tuple<Symbol, std::int32_t, bool>>& atoms, bool all)
      : graph_(std::move(graph)) {
    const Node n = graph_->size();
    for (const py::dict& group : groups) groups_.push_back(parse_group(group, n));
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

  // Worlds must not take values from each other in a cycle: checked by the algorithm of Kahn (1962).
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

}  // namespace

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

}  // namespace mdcm
