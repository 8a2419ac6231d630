// C-components of a mixed graph, and strongly connected components of any directed relation.

#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "admg.hpp"

namespace mdcm {

// A partition of the nodes: label[v] in 0..count-1.
struct Components {
  std::vector<Node> label;
  Node count = 0;
};

// Maximal sets connected by bidirected paths (Tian & Pearl 2002; districts in Richardson's terms), numbered by their
// first member in topological order. Each node of `into` is a separate component, because do() removes its latents.
// O(n + edges).
Components c_components(const Admg& graph, Nodes into = {});

// A partition in compressed form: members of part k are members[offsets[k] .. offsets[k + 1]], in the order of
// `sequence`. O(n).
struct Parts {
  std::vector<std::size_t> offsets;
  std::vector<Node> members;

  Parts() = default;
  Parts(const Components& components, Nodes sequence);

  Node count() const { return static_cast<Node>(offsets.size()) - 1; }
  Nodes operator[](Node k) const {
    const auto at = static_cast<std::size_t>(k);
    return {members.data() + offsets[at], offsets[at + 1] - offsets[at]};
  }
};

// Strongly connected components of the relation v -> w for w in successors(v), numbered so that successors come
// first (reverse topological order of the condensation). Tarjan (1972) with an explicit stack.
//
// `successors(v)` returns a range of nodes that is valid until the next call, the same sequence each time. The
// unvisited rest of a node's sequence is held while its successors are searched, at most `budget` entries over all
// nodes: beyond that the rests lowest on the stack are dropped, and recomputed when the search returns to them. Thus an
// implicit relation is searched in O(n + budget) memory, and the cost of a recomputation is amortised over the `budget`
// entries computed since.
template <class Successors>
Components strongly_connected(Node n, Successors&& successors, std::size_t budget) {
  constexpr Node kUnvisited = -1;
  struct Frame {
    Node node;
    std::size_t next;        // number of successors visited
    std::vector<Node> held;  // the others in reverse order, unless dropped
    bool dropped;
  };
  Components result{std::vector<Node>(static_cast<std::size_t>(n), kUnvisited), 0};
  std::vector<Node> index(static_cast<std::size_t>(n), kUnvisited);
  std::vector<Node> low(static_cast<std::size_t>(n), 0);
  std::vector<Node> open;
  std::vector<Frame> frames;
  Node counter = 0;
  std::size_t held = 0;
  std::size_t lowest = 0;  // frames below this index hold nothing
  const auto at = [](Node v) { return static_cast<std::size_t>(v); };

  const auto enter = [&](Node v) {
    index[at(v)] = low[at(v)] = counter++;
    open.push_back(v);
    frames.push_back({v, 0, {}, true});
  };
  // visits a successor; true if it is new and must be searched first
  const auto is_new = [&](Node v, Node w) {
    if (index[at(w)] == kUnvisited) return true;
    // a labelled node has left the stack
    if (result.label[at(w)] == kUnvisited) low[at(v)] = std::min(low[at(v)], index[at(w)]);
    return false;
  };
  const auto drop_lowest = [&] {
    for (; held > budget; ++lowest) {
      held -= frames[lowest].held.size();
      // assigning {} would keep the memory
      std::vector<Node>().swap(frames[lowest].held);
      frames[lowest].dropped = true;
    }
  };
  // the next new successor, or kUnvisited
  const auto advance = [&](Frame& frame) {
    const Node v = frame.node;
    if (!frame.dropped) {
      while (!frame.held.empty()) {
        const Node w = frame.held.back();
        frame.held.pop_back();
        --held;
        ++frame.next;
        // popping does not free memory, which a deep stack would accumulate
        if (4 * frame.held.size() < frame.held.capacity()) frame.held.shrink_to_fit();
        if (is_new(v, w)) return w;
      }
      return kUnvisited;
    }
    const auto& targets = successors(v);
    for (std::size_t k = frame.next; k < targets.size(); ++k) {
      const Node w = targets[k];
      if (!is_new(v, w)) continue;
      frame.next = k + 1;
      frame.held.assign(targets.rbegin(), targets.rend() - static_cast<std::ptrdiff_t>(k + 1));
      frame.dropped = false;
      held += frame.held.size();
      lowest = std::min(lowest, frames.size() - 1);
      drop_lowest();
      return w;
    }
    return kUnvisited;
  };

  for (Node root = 0; root < n; ++root) {
    if (index[at(root)] != kUnvisited) continue;
    enter(root);
    while (!frames.empty()) {
      const Node child = advance(frames.back());
      if (child != kUnvisited) {
        enter(child);
        continue;
      }
      const Node v = frames.back().node;
      frames.pop_back();
      lowest = std::min(lowest, frames.size());
      if (!frames.empty()) {
        const Node up = frames.back().node;
        low[at(up)] = std::min(low[at(up)], low[at(v)]);
      }
      if (low[at(v)] == index[at(v)]) {
        Node w = kUnvisited;
        do {
          w = open.back();
          open.pop_back();
          result.label[at(w)] = result.count;
        } while (w != v);
        ++result.count;
      }
    }
  }
  return result;
}

}  // namespace mdcm
