#include "separation.hpp"

#include <vector>

namespace mdcm {
namespace {

std::vector<Node> joined(Nodes a, Nodes b) {
  std::vector<Node> both(a.begin(), a.end());
  both.insert(both.end(), b.begin(), b.end());
  return both;
}

}  // namespace

// Reachability as in the Bayes ball (Shachter 1998), extended to bidirected edges: a walk arrives at a node at its tail
// (from a child, or as a start) or at an arrowhead (from a parent or sibling), and may continue to
//
//   arrived at      node not in z                   node in z
//   tail            parents, siblings, children     none
//   head            children                        parents, siblings
//
// It arrives at a parent's tail, and at the head of a child or sibling. Each node is expanded at most twice. A hub is
// never conditioned on, so a walk up to it reaches all its children: each hub is expanded once.
bool m_separated(const Admg& graph, Nodes x, Nodes y, Nodes z, const Cut& cut) {
  Marks marks(graph.size(), cut);
  for (const Node v : z) marks.set(v, Marks::kGiven);
  for (const Node v : y) marks.set(v, Marks::kTarget);
  std::vector<bool> used(static_cast<std::size_t>(graph.num_hubs()), false);

  struct State {
    Node node;
    bool at_head;
  };
  std::vector<State> open;
  bool met = false;
  const auto arrive_tail = [&](Node v) {
    if (marks.has(v, Marks::kTail | Marks::kGiven)) return;
    met = met || marks.has(v, Marks::kTarget);
    marks.set(v, Marks::kTail);
    open.push_back({v, false});
  };
  const auto arrive_head = [&](Node v) {
    if (marks.has(v, Marks::kHead | Marks::kNoInto)) return;
    met = met || marks.has(v, Marks::kTarget);
    marks.set(v, Marks::kHead);
    open.push_back({v, true});
  };

  for (const Node v : x) arrive_tail(v);
  while (!open.empty() && !met) {
    const auto [v, at_head] = open.back();
    open.pop_back();
    const bool given = marks.has(v, Marks::kGiven);
    if (at_head == given && !marks.has(v, Marks::kNoInto)) {
      for (const Node p : graph.parents(v)) {
        if (!marks.has(p, Marks::kNoOutOf)) arrive_tail(p);
      }
      for (const Node s : graph.siblings(v)) arrive_head(s);
      for (const Node hub : graph.hubs(v)) {
        if (used[static_cast<std::size_t>(hub)]) continue;
        used[static_cast<std::size_t>(hub)] = true;
        for (const Node s : graph.hub_children(hub)) arrive_head(s);
      }
    }
    if (!given && !marks.has(v, Marks::kNoOutOf)) {
      for (const Node c : graph.children(v)) arrive_head(c);
    }
  }
  return !met;
}

// Pearl (1995), rule 1: without edges into x.
bool rule1(const Admg& graph, Nodes y, Nodes z, Nodes x, Nodes w) {
  return m_separated(graph, y, z, joined(x, w), Cut{.into = x, .out_of = {}});
}

// Pearl (1995), rule 2: without edges into x and out of z.
bool rule2(const Admg& graph, Nodes y, Nodes z, Nodes x, Nodes w) {
  return m_separated(graph, y, z, joined(x, w), Cut{.into = x, .out_of = z});
}

// Pearl (1995), rule 3: without edges into x and into z(w), the members of z that are not ancestors of w without edges
// into x.
bool rule3(const Admg& graph, Nodes y, Nodes z, Nodes x, Nodes w) {
  Marks above(graph.size(), {});
  for (const Node v : ancestors(graph, w, Cut{.into = x, .out_of = {}})) above.set(v, Marks::kWithin);
  std::vector<Node> into(x.begin(), x.end());
  for (const Node v : z) {
    if (!above.has(v, Marks::kWithin)) into.push_back(v);
  }
  return m_separated(graph, y, z, joined(x, w), Cut{.into = into, .out_of = {}});
}

}  // namespace mdcm
