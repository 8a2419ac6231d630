// Which data can teach which part of the model: fits of c-factors to data sets with interventions and missing columns.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "admg.hpp"
#include "components.hpp"
#include "modularity.hpp"
#include "subgraph.hpp"

namespace mdcm {

// Data sets that intervene on the same variables and observe the same ones; what they set may differ.
struct DatasetGroup {
  // The combinations of values that one data set sets: for each target its levels, none for every value.
  struct Box {
    std::vector<std::vector<std::int32_t>> levels;
  };

  std::vector<Node> targets;          // ascending
  std::vector<std::uint8_t> columns;  // one flag per node; none if every node is observed
  std::vector<std::int32_t> domain;   // number of levels of each target; 0 where only a box of every value covers it
  std::vector<Box> boxes;             // one per data set
  std::int64_t rows = -1;             // of all together; -1 if unknown

  bool observes(Node v) const { return columns.empty() || columns[static_cast<std::size_t>(v)] != 0; }
  bool is_target(Node v) const;
  // Whether every combination of levels of these targets is set. Exponential in their number at worst; more than 2^20
  // combinations count as not covered.
  bool covers(Nodes some_targets) const;
};

// What a data set lacks to teach an h-node.
struct Lack {
  enum class Kind : std::uint8_t {
    kNothing,
    kColumns,  // nodes are not observed
    kInside,   // nodes belong to the h-node and are intervened on
    kValues,   // not all values of nodes are set
    kFactor,   // the c-factor of nodes, which would have to be trained before, is determined by no data
  };
  Kind kind = Kind::kNothing;
  std::vector<Node> nodes;
};

// One distribution that an h-node is fitted to, P(S | Pa(S)) under do(targets), with S = variables and A.
//
// A is not stored but found by the closure of the variables under the targets of the first group.
struct PlannedFit {
  std::vector<Node> variables;       // in topological order
  std::vector<std::int32_t> groups;  // whose rows are used, ascending
};

// How an h-node is trained.
enum class Training : std::uint8_t {
  kLikelihood,   // needs nothing trained before
  kAdversarial,  // needs its modularity sets
  kGiven,        // pre-trained: needs no data
};

// An h-node that no data can teach, and what every group lacks.
struct Untrained {
  Node hnode = -1;
  std::vector<Lack> lacks;
};

// Chooses the fits of a partition into h-nodes.
//
// A group serves a fit of the c-factor Q[F] if it observes S and Pa(S), if it sets every value of the targets among
// Pa(S), where the whole of Q[F] is to be learned, and if every c-component of A is determined by what is trained
// before: identifiable (Tian & Pearl 2002) from the c-factor of its c-component or from another fit of its h-node.
// Among the serving groups one with an inclusion-minimal A is taken, unless it has less than a tenth of the rows of
// another; all groups with the same A are pooled.
class FitChooser {
 public:
  FitChooser(const Admg& graph, const std::vector<DatasetGroup>& groups);

  // Chooses fits for every h-node; returns those that no group can teach.
  // Time: for every h-node and group a closure and, under do(), an identification per c-component of A.
  std::vector<Untrained> choose(const Components& hnodes, const Parts& parts, const std::vector<Training>& training);

  const std::vector<PlannedFit>& fits(Node hnode) const { return fits_[static_cast<std::size_t>(hnode)]; }

 private:
  // A c-factor that some groups show.
  struct Shown {
    std::vector<Node> set;             // ascending
    std::vector<std::int32_t> groups;  // at the values that these set
    bool everywhere = false;           // at all values
    bool partial = false;              // it is a part of what the h-node keeps under do()
  };
  // What a group could be used for.
  struct Candidate {
    std::int32_t group = -1;
    std::vector<Node> variables;  // in topological order
    std::vector<Node> ancestors;  // A, ascending
    Lack lack;
    bool whole = false;       // the observational c-factor of the h-node
    bool partial = false;     // a part of it under do()
    bool everywhere = false;  // all values of the targets among the parents are set
    bool indirect = false;    // relies on a fit that shows a part of an h-node only
  };
  // What a group does not observe of a set and its parents, and the parents outside the set that it sets; ascending.
  struct Around {
    std::vector<Node> unseen;
    std::vector<Node> set_parents;
  };
  enum class Standing : std::uint8_t { kDetermined, kIndirectly, kNo };

  static std::size_t at(Node v) { return static_cast<std::size_t>(v); }
  void likelihood_fits(Node h);
  std::vector<Candidate> candidates(Node h);
  Candidate evaluate(Node h, std::int32_t group, Nodes variables, bool whole);
  Standing standing(Nodes factor, std::int32_t group);
  std::vector<std::vector<Node>> bidirected_parts(Nodes set);
  Around look_around(const DatasetGroup& group, Nodes set);
  std::vector<Lack> lacks(Node h, const std::vector<Candidate>& found);
  bool show(Node h, const Candidate& candidate);
  void select(Node h, const std::vector<Candidate>& found);
  void select_bucket(Node h, const std::vector<const Candidate*>& pool, bool need_cover);
  std::int64_t rows_of(std::int32_t group) const { return groups_[static_cast<std::size_t>(group)].rows; }

  const Admg& graph_;
  const std::vector<DatasetGroup>& groups_;
  ModularityClosure closure_;
  Components components_;
  Parts component_parts_;
  const Components* hnodes_ = nullptr;
  const Parts* parts_ = nullptr;
  const std::vector<Training>* training_ = nullptr;
  std::vector<std::vector<PlannedFit>> fits_;
  std::vector<std::vector<Shown>> shown_;
  Subgraph subgraph_;
  std::vector<std::uint32_t> mark_;  // equal to epoch_: in the set that is looked at
  std::uint32_t epoch_ = 0;
};

}  // namespace mdcm
