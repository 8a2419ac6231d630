#include "components.hpp"

#include <numeric>

namespace mdcm {

// A search along bidirected edges and hubs from each unlabelled node; every hub is expanded once.
Components c_components(const Admg& graph, Nodes into) {
  constexpr Node kNone = -1;
  const auto at = [](Node v) { return static_cast<std::size_t>(v); };
  Components result{std::vector<Node>(at(graph.size()), kNone), 0};
  std::vector<bool> isolated(at(graph.size()), false);
  std::vector<bool> used(at(graph.num_hubs()), false);
  for (const Node v : into) isolated[at(v)] = true;
  std::vector<Node> open;
  for (const Node root : graph.topological_order()) {
    if (result.label[at(root)] != kNone) continue;
    const Node label = result.count++;
    const auto reach = [&](Node v) {
      if (result.label[at(v)] != kNone || isolated[at(v)]) return;
      result.label[at(v)] = label;
      open.push_back(v);
    };
    if (isolated[at(root)]) {
      result.label[at(root)] = label;
      continue;
    }
    reach(root);
    while (!open.empty()) {
      const Node v = open.back();
      open.pop_back();
      for (const Node w : graph.siblings(v)) reach(w);
      for (const Node hub : graph.hubs(v)) {
        if (used[at(hub)]) continue;
        used[at(hub)] = true;
        for (const Node w : graph.hub_children(hub)) reach(w);
      }
    }
  }
  return result;
}

// Counting sort by label.
Parts::Parts(const Components& components, Nodes sequence)
    : offsets(static_cast<std::size_t>(components.count) + 1, 0), members(sequence.size()) {
  const auto label = [&](Node v) { return static_cast<std::size_t>(components.label[static_cast<std::size_t>(v)]); };
  for (const Node v : sequence) ++offsets[label(v) + 1];
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  std::vector<std::size_t> next(offsets.begin(), offsets.end() - 1);
  for (const Node v : sequence) members[next[label(v)]++] = v;
}

}  // namespace mdcm
