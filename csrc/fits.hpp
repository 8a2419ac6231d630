// Fits of c-factors to data sets with interventions and missing columns.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "admg.hpp"
#include "components.hpp"
#include "modularity.hpp"
#include "subgraph.hpp"

namespace mdcm {

// Data sets with the same targets and the same observed columns, but possibly different values of the targets.
struct DatasetGroup {
  // A product of values that a data set sets: the levels of each target; empty for every value.
  struct Box {
    std::vector<std::vector<std::int32_t>> levels;
  };

  std::vector<Node> targets;          // ascending
  std::vector<std::uint8_t> columns;  // a flag per node; empty if every node is observed
  std::vector<std::int32_t> domain;   // number of levels of each target; 0 where only a box of every value covers it
  std::vector<Box> boxes;             // of all data sets
  std::int64_t rows = -1;             // in total; -1 if unknown

  bool observes(Node v) const { return columns.empty() || columns[static_cast<std::size_t>(v)] != 0; }
  bool is_target(Node v) const;
  // Whether every combination of levels of these targets is set. Exponential in their number at worst; more than 2^20
  // combinations count as not covered.
  bool covers(Nodes some_targets) const;
};

// Reason why a data set does not determine an h-node.
struct Missing {
  enum class Kind : std::uint8_t {
    kNothing,
    kColumns,  // nodes are not observed
    kInside,   // nodes belong to the h-node and are intervened on
    kValues,   // not all values of nodes are set
    kFactor,   // the c-factor of nodes, which must be trained before, is not determined by any data
  };
  Kind kind = Kind::kNothing;
  std::vector<Node> nodes;
};

// A distribution that an h-node is fitted to, P(S | Pa(S)) under do(targets), with S = variables and A.
//
// A is not stored: it is the modularity closure of the variables under the targets of the first group.
struct PlannedFit {
  std::vector<Node> variables;       // in topological order
  std::vector<std::int32_t> groups;  // groups whose rows are used, ascending
};

// Objective of an h-node.
enum class Training : std::uint8_t {
  kLikelihood,   // needs nothing trained before
  kAdversarial,  // needs its modularity sets
  kGiven,        // pre-trained: needs no data
};

// An h-node that no data determine, with the reason by group.
struct Untrained {
  Node hnode = -1;
  std::vector<Missing> missing;
};

// Chooses the fits of a partition into h-nodes (Rahman & Kocaoglu 2024, Algorithm 7).
//
// A group serves a fit of the c-factor Q[F] if it observes S and Pa(S), if it sets every value of the targets among
// Pa(S), as far as all of Q[F] is to be learned, and if every c-component of A is determined by mechanisms trained
// before: identifiable (Tian & Pearl 2002) from the c-factor of its c-component or from another fit of its h-node.
// Among the serving groups one with an inclusion-minimal A is chosen, unless it has less than a tenth of the rows of
// another; all groups with the same A are pooled.
class FitChooser {
 public:
  FitChooser(const Admg& graph, const std::vector<DatasetGroup>& groups);

  // Chooses fits for every h-node; returns the h-nodes that no group determines.
  // Time: a closure per h-node and group and, under do(), an identification per c-component of A.
  std::vector<Untrained> choose(const Components& hnodes, const Parts& parts, const std::vector<Training>& training);

  const std::vector<PlannedFit>& fits(Node hnode) const { return fits_[static_cast<std::size_t>(hnode)]; }

 private:
  // A c-factor that some groups determine.
  struct Shown {
    std::vector<Node> set;             // ascending
    std::vector<std::int32_t> groups;  // at the values that these groups set
    bool everywhere = false;           // at all values
    bool partial = false;              // a proper part of the members that do() does not set
  };
  // A possible fit to a group.
  struct Candidate {
    std::int32_t group = -1;
    std::vector<Node> variables;  // in topological order
    std::vector<Node> ancestors;  // A, ascending
    Missing missing;
    bool whole = false;       // the observational c-factor of the h-node
    bool partial = false;     // a proper part of the members that do() does not set
    bool everywhere = false;  // all values of the targets among the parents are set
    bool indirect = false;    // relies on a partial fit
  };
  // Unobserved nodes of a set and its parents, and targets among the parents outside the set; ascending.
  struct Surroundings {
    std::vector<Node> unseen;
    std::vector<Node> set_parents;
  };
  enum class Determination : std::uint8_t { kDetermined, kIndirectly, kNo };

  static std::size_t at(Node v) { return static_cast<std::size_t>(v); }
  void likelihood_fits(Node h);
  std::vector<Candidate> candidates(Node h);
  Candidate evaluate(Node h, std::int32_t group, Nodes variables, bool whole);
  Determination determination(Nodes factor, std::int32_t group);
  std::vector<std::vector<Node>> c_components_within(Nodes set);
  Surroundings surroundings(const DatasetGroup& group, Nodes set);
  std::vector<Missing> missing_data(Node h, const std::vector<Candidate>& options);
  bool record_shown(Node h, const Candidate& candidate);
  void select(Node h, const std::vector<Candidate>& options);
  void select_fit(Node h, const std::vector<const Candidate*>& pool, bool need_cover);
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
  std::vector<std::uint32_t> mark_;  // equal to epoch_ for members of the current set
  std::uint32_t epoch_ = 0;
};

}  // namespace mdcm
