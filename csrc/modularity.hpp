// The smallest set of ancestors that must be generated along with some mechanisms, and the paths that force it.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "admg.hpp"

namespace mdcm {

// A backdoor path c <- q <- ... <- s, or c <- q <- ... <- b <-> s, from a child c of q to a member s of the same set.
struct Witness {
  std::vector<Node> path;        // c, q, ..., s
  bool ends_bidirected = false;  // whether the last step is b <-> s
};

// Computes the least S that contains a set and is closed under
//
//   q not in I, q has a child in S, and q in De(S and the siblings of S), all under do(I)   =>   q in S.
//
// S minus the set is the smallest set A that satisfies the modularity condition of Rahman & Kocaoglu (2024, Def. 4.4
// and D.1), and every set that satisfies it contains A: rule 2 fails for a parent p of S exactly when directed edges
// lead to p, past no other parent of S, from a member of S or a sibling of a member; then p is not a parent of a larger
// solution either.
//
// Scratch memory is O(n + hubs), allocated once and reused without clearing. A run takes O(visited edges), at worst
// O(n + edges). Not safe for concurrent use.
class ModularityClosure {
 public:
  explicit ModularityClosure(const Admg& graph);

  // S for the members of `set` outside `targets`, under do(targets): first those members, then A in the order in which
  // its members were added. Valid until the next run.
  Nodes run(Nodes set, Nodes targets);

  // Number of leading members of the last result that come from the set itself.
  std::size_t num_given() const { return num_given_; }

  // A: the members that the last run added to the set.
  Nodes added() const { return Nodes(closed_).subspan(num_given_); }

  // Whether v belongs to the last result.
  bool contains(Node v) const { return closed_at_[index(v)] == epoch_; }

  // The backdoor path that forced q, a member of added(). The inner nodes of the path are outside S, so the path is
  // open in the graph in which rule 2 is tested for S without q.
  Witness witness(Node q) const;

 private:
  static std::size_t index(Node v) { return static_cast<std::size_t>(v); }
  void add_to_closure(Node v);
  void mark_descendants(Node source, Node came_from);

  const Admg& graph_;
  std::uint32_t epoch_ = 0;
  std::size_t num_given_ = 0;
  Node last_position_ = -1;
  std::vector<std::uint32_t> target_at_;
  std::vector<std::uint32_t> closed_at_;
  std::vector<std::uint32_t> parent_at_;
  std::vector<std::uint32_t> reached_at_;
  std::vector<std::uint32_t> hub_at_;
  std::vector<Node> child_;  // the member of S whose parent a node is
  std::vector<Node> from_;   // predecessor of a reached node: a parent, or an encoded sibling
  std::vector<Node> closed_;
  std::vector<Node> open_;
};

}  // namespace mdcm
