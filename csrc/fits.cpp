#include "fits.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

namespace mdcm {
namespace {

constexpr std::size_t kMostCombinations = std::size_t{1} << 20;
// a smaller A is not preferred if it has fewer rows than those of another by this factor
constexpr std::int64_t kWorthwhileRows = 10;

std::vector<Node> sorted(std::vector<Node> nodes) {
  std::sort(nodes.begin(), nodes.end());
  return nodes;
}

bool is_subset(const std::vector<Node>& small, const std::vector<Node>& large) {
  return std::includes(large.begin(), large.end(), small.begin(), small.end());
}

}  // namespace

bool DatasetGroup::is_target(Node v) const { return std::binary_search(targets.begin(), targets.end(), v); }

// Enumerates the combinations of levels, unless a box covers all of them.
bool DatasetGroup::covers(Nodes some_targets) const {
  std::vector<std::size_t> finite;
  std::vector<const Box*> left;
  for (const Box& box : boxes) left.push_back(&box);
  for (const Node v : some_targets) {
    const auto target = std::lower_bound(targets.begin(), targets.end(), v);
    const auto k = static_cast<std::size_t>(target - targets.begin());
    if (domain[k] > 0) {
      finite.push_back(k);
    } else {
      std::erase_if(left, [&](const Box* box) { return !box->levels[k].empty(); });
    }
  }
  const auto covers_all = [&](const Box* box) {
    return std::all_of(finite.begin(), finite.end(), [&](std::size_t k) { return box->levels[k].empty(); });
  };
  if (std::any_of(left.begin(), left.end(), covers_all)) return true;
  std::size_t combinations = 1;
  for (const std::size_t k : finite) {
    combinations *= static_cast<std::size_t>(domain[k]);
    if (combinations > kMostCombinations) return false;
  }
  for (std::size_t code = 0; code < combinations; ++code) {
    const auto holds = [&](const Box* box) {
      std::size_t rest = code;
      for (const std::size_t k : finite) {
        const auto level = static_cast<std::int32_t>(rest % static_cast<std::size_t>(domain[k]));
        rest /= static_cast<std::size_t>(domain[k]);
        const auto& set = box->levels[k];
        if (!set.empty() && std::find(set.begin(), set.end(), level) == set.end()) return false;
      }
      return true;
    };
    if (std::none_of(left.begin(), left.end(), holds)) return false;
  }
  return true;
}

FitChooser::FitChooser(const Admg& graph, const std::vector<DatasetGroup>& groups)
    : graph_(graph),
      groups_(groups),
      closure_(graph),
      components_(c_components(graph)),
      component_parts_(components_, graph.topological_order()),
      subgraph_(graph),
      mark_(at(graph.size()), 0) {}

// Rahman & Kocaoglu (2024), Algorithm 7: for every c-factor, the data sets with a smallest modularity set.
std::vector<Untrained> FitChooser::choose(const Components& hnodes, const Parts& parts,
                                          const std::vector<Training>& training) {
  hnodes_ = &hnodes;
  parts_ = &parts;
  training_ = &training;
  fits_.assign(at(parts.count()), {});
  shown_.assign(at(parts.count()), {});
  for (Node h = 0; h < parts.count(); ++h) {
    if (training[at(h)] == Training::kLikelihood) likelihood_fits(h);
  }
  // a fit may rely on a c-factor that another group determines under do(), so those are computed first, to a fixed
  // point
  bool changed = std::any_of(groups_.begin(), groups_.end(), [](const DatasetGroup& g) { return !g.targets.empty(); });
  while (changed) {
    changed = false;
    for (Node h = 0; h < parts.count(); ++h) {
      if (training[at(h)] != Training::kAdversarial) continue;
      for (const Candidate& candidate : candidates(h)) {
        if (candidate.missing.kind == Missing::Kind::kNothing && !candidate.whole)
          changed |= record_shown(h, candidate);
      }
    }
  }
  std::vector<Untrained> untrained;
  for (Node h = 0; h < parts.count(); ++h) {
    if (training[at(h)] == Training::kGiven) continue;
    std::vector<Candidate> options;
    if (training[at(h)] == Training::kAdversarial) {
      options = candidates(h);
      select(h, options);
    }
    const auto is_whole = [&](const PlannedFit& fit) { return fit.variables.size() == parts[h].size(); };
    if (std::none_of(fits_[at(h)].begin(), fits_[at(h)].end(), is_whole)) {
      untrained.push_back({h, missing_data(h, options)});
    }
  }
  return untrained;
}

// The reason by group why an h-node is not determined: targets inside it, columns, trained factors, or values.
std::vector<Missing> FitChooser::missing_data(Node h, const std::vector<Candidate>& options) {
  const Nodes members = (*parts_)[h];
  std::vector<Missing> result(groups_.size());
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const DatasetGroup& group = groups_[g];
    const auto candidate = std::find_if(options.begin(), options.end(), [&](const Candidate& c) {
      return c.whole && c.group == static_cast<std::int32_t>(g);
    });
    std::vector<Node> inside;
    std::copy_if(members.begin(), members.end(), std::back_inserter(inside),
                 [&](Node v) { return group.is_target(v); });
    if (!inside.empty()) {
      result[g] = {Missing::Kind::kInside, sorted(std::move(inside))};
    } else if (candidate != options.end() && candidate->missing.kind != Missing::Kind::kNothing) {
      result[g] = candidate->missing;
    } else {
      std::vector<Node> set(members.begin(), members.end());
      if (candidate != options.end()) set.insert(set.end(), candidate->ancestors.begin(), candidate->ancestors.end());
      Surroundings around = surroundings(group, set);
      result[g] = around.unseen.empty() ? Missing{Missing::Kind::kValues, std::move(around.set_parents)}
                                        : Missing{Missing::Kind::kColumns, std::move(around.unseen)};
    }
  }
  return result;
}

FitChooser::Surroundings FitChooser::surroundings(const DatasetGroup& group, Nodes set) {
  Surroundings around;
  ++epoch_;
  for (const Node v : set) {
    mark_[at(v)] = epoch_;
    if (!group.observes(v)) around.unseen.push_back(v);
  }
  for (const Node v : set) {
    for (const Node p : graph_.parents(v)) {
      if (mark_[at(p)] == epoch_) continue;
      mark_[at(p)] = epoch_;
      if (group.is_target(p)) {
        around.set_parents.push_back(p);
      } else if (!group.observes(p)) {
        around.unseen.push_back(p);
      }
    }
  }
  std::sort(around.unseen.begin(), around.unseen.end());
  std::sort(around.set_parents.begin(), around.set_parents.end());
  return around;
}

// The likelihood factorises over the c-components (Tian & Pearl 2002). Members that are not observed, or whose parents
// are not, are summed out along with their descendants, which leaves the c-factor of an ancestral part of the
// c-component.
void FitChooser::likelihood_fits(Node h) {
  struct Pool {
    std::vector<Node> variables;
    std::vector<std::int32_t> groups;
    bool whole = false;
    bool everywhere = false;
    bool partial = false;
  };
  const Nodes members = (*parts_)[h];
  const Nodes position = graph_.positions();
  const Node last = position[at(members[members.size() - 1])];
  std::vector<Pool> pools;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const DatasetGroup& group = groups_[g];
    const auto known = [&](Node v) { return group.is_target(v) || group.observes(v); };
    ++epoch_;
    std::vector<Node> open;
    const auto sum_out = [&](Node v) {
      if (mark_[at(v)] == epoch_ || group.is_target(v) || position[at(v)] > last) return;
      mark_[at(v)] = epoch_;
      open.push_back(v);
    };
    bool inside = false;
    for (const Node v : members) {
      if (group.is_target(v)) {
        inside = true;
        continue;
      }
      const Nodes up = graph_.parents(v);
      if (!group.observes(v) || !std::all_of(up.begin(), up.end(), known)) sum_out(v);
    }
    while (!open.empty()) {
      const Node v = open.back();
      open.pop_back();
      for (const Node c : graph_.children(v)) sum_out(c);
    }
    std::vector<Node> kept;
    std::size_t free = 0;
    for (const Node v : members) {
      if (group.is_target(v)) continue;
      ++free;
      if (mark_[at(v)] != epoch_) kept.push_back(v);
    }
    if (kept.empty()) continue;
    const bool whole = !inside && kept.size() == members.size();
    auto pool = std::find_if(pools.begin(), pools.end(), [&](const Pool& p) { return p.variables == kept; });
    if (pool == pools.end()) {
      pools.push_back({kept, {}, whole, false, kept.size() < free});
      pool = pools.end() - 1;
    }
    pool->groups.push_back(static_cast<std::int32_t>(g));
    if (group.covers(surroundings(group, kept).set_parents)) pool->everywhere = true;
  }
  std::stable_sort(pools.begin(), pools.end(), [](const Pool& a, const Pool& b) { return a.whole && !b.whole; });
  for (Pool& pool : pools) {
    if (pool.whole && !pool.everywhere) continue;
    if (!pool.whole) shown_[at(h)].push_back({sorted(pool.variables), pool.groups, pool.everywhere, pool.partial});
    fits_[at(h)].push_back({std::move(pool.variables), std::move(pool.groups)});
  }
}

// A fit per group to all members that it does not set, or else to each of their c-components under do().
std::vector<FitChooser::Candidate> FitChooser::candidates(Node h) {
  const Nodes members = (*parts_)[h];
  std::vector<Candidate> result;
  for (std::int32_t g = 0; g < static_cast<std::int32_t>(groups_.size()); ++g) {
    const DatasetGroup& group = groups_[static_cast<std::size_t>(g)];
    std::vector<Node> kept;
    std::copy_if(members.begin(), members.end(), std::back_inserter(kept), [&](Node v) { return !group.is_target(v); });
    if (kept.empty()) continue;
    const bool whole = kept.size() == members.size();
    Candidate all = evaluate(h, g, kept, whole);
    const bool serves = all.missing.kind == Missing::Kind::kNothing;
    if (serves || whole) result.push_back(std::move(all));
    if (serves || whole) continue;
    // do() removes the latents of the targets, so the rest may have several c-components
    const auto pieces = c_components_within(kept);
    if (pieces.size() < 2) continue;
    for (const auto& piece : pieces) {
      Candidate part = evaluate(h, g, piece, false);
      part.partial = part.variables.size() < kept.size();
      if (part.missing.kind == Missing::Kind::kNothing) result.push_back(std::move(part));
    }
  }
  return result;
}

// The smallest A of a fit to a group (Def. 4.4; Def. D.1 under do()), and whether the group determines the fit.
FitChooser::Candidate FitChooser::evaluate(Node h, std::int32_t g, Nodes variables, bool whole) {
  const DatasetGroup& group = groups_[static_cast<std::size_t>(g)];
  const Nodes position = graph_.positions();
  Candidate candidate;
  candidate.group = g;
  candidate.whole = whole;
  const Nodes closed = closure_.run(variables, group.targets);
  // members of A in the same h-node are trained at the same time, not before
  for (const Node v : closed) {
    (hnodes_->label[at(v)] == h ? candidate.variables : candidate.ancestors).push_back(v);
  }
  std::sort(candidate.variables.begin(), candidate.variables.end(),
            [&](Node a, Node b) { return position[at(a)] < position[at(b)]; });
  std::sort(candidate.ancestors.begin(), candidate.ancestors.end());
  Surroundings around = surroundings(group, closed);
  if (!around.unseen.empty()) {
    candidate.missing = {Missing::Kind::kColumns, std::move(around.unseen)};
    return candidate;
  }
  candidate.everywhere = group.covers(around.set_parents);
  // without an intervention P(V) determines Q[S], and so the c-factor of every c-component of A
  if (group.targets.empty()) return candidate;
  for (const auto& factor : c_components_within(candidate.ancestors)) {
    const Determination result = determination(factor, g);
    if (result == Determination::kIndirectly) candidate.indirect = true;
    if (result != Determination::kNo) continue;
    // a larger A would not help: the set at which the identification fails, connected by bidirected paths and ancestral
    // to the factor, contains a target, or the closure would contain all of it
    candidate.missing = {Missing::Kind::kFactor, factor};
    break;
  }
  return candidate;
}

// Whether mechanisms trained before determine Q[factor]: by Identify (Tian & Pearl 2002) from its c-component or from a
// c-factor that some group determines.
FitChooser::Determination FitChooser::determination(Nodes factor, std::int32_t group) {
  const auto h = at(hnodes_->label[at(factor[0])]);
  if ((*training_)[h] == Training::kGiven) return Determination::kDetermined;
  std::vector<Node> stuck;
  if (subgraph_.is_identifiable(factor, component_parts_[components_.label[at(factor[0])]], stuck)) {
    return Determination::kDetermined;
  }
  Determination best = Determination::kNo;
  for (const Shown& shown : shown_[h]) {
    const bool known_here =
        shown.everywhere || std::find(shown.groups.begin(), shown.groups.end(), group) != shown.groups.end();
    if (!known_here || (shown.partial && best == Determination::kIndirectly)) continue;
    if (!std::includes(shown.set.begin(), shown.set.end(), factor.begin(), factor.end())) continue;
    if (!subgraph_.is_identifiable(factor, shown.set, stuck)) continue;
    if (!shown.partial) return Determination::kDetermined;
    best = Determination::kIndirectly;
  }
  return best;
}

// The c-components of the subgraph induced by `set`, each ascending.
std::vector<std::vector<Node>> FitChooser::c_components_within(Nodes set) {
  std::vector<std::vector<Node>> parts;
  ++epoch_;
  subgraph_.restrict_to(set);
  for (const Node root : set) {
    if (mark_[at(root)] == epoch_) continue;
    parts.push_back(sorted(subgraph_.c_component_of(root)));
    for (const Node v : parts.back()) mark_[at(v)] = epoch_;
  }
  return parts;
}

// Records the c-factor of a candidate; false if it is known.
bool FitChooser::record_shown(Node h, const Candidate& candidate) {
  const auto set = sorted(candidate.variables);
  for (const Shown& shown : shown_[at(h)]) {
    if (shown.set == set && shown.groups[0] == candidate.group) return false;
  }
  shown_[at(h)].push_back({set, {candidate.group}, candidate.everywhere, candidate.partial});
  return true;
}

// Selects a fit for the whole h-node and for every other c-factor.
void FitChooser::select(Node h, const std::vector<Candidate>& options) {
  std::vector<const Candidate*> whole;
  std::map<std::vector<Node>, std::vector<const Candidate*>> others;
  for (const Candidate& candidate : options) {
    if (candidate.missing.kind != Missing::Kind::kNothing) continue;
    if (candidate.whole) {
      whole.push_back(&candidate);
      continue;
    }
    auto& pool = others[candidate.variables];
    // the closures of two pieces may be equal
    if (pool.empty() || pool.back()->group != candidate.group) pool.push_back(&candidate);
  }
  select_fit(h, whole, true);
  std::vector<const std::vector<const Candidate*>*> in_order;
  for (const auto& [variables, pool] : others) in_order.push_back(&pool);
  std::stable_sort(in_order.begin(), in_order.end(),
                   [](const auto* a, const auto* b) { return a->front()->group < b->front()->group; });
  for (const auto* pool : in_order) select_fit(h, *pool, false);
}

// Chooses among groups that determine the same c-factor. If none does at all values, there is a fit for each A.
void FitChooser::select_fit(Node h, const std::vector<const Candidate*>& pool, bool need_cover) {
  struct Bucket {
    const Candidate* first;
    std::int64_t rows;
  };
  const auto add = [&](const Candidate& chosen, bool direct_only) {
    PlannedFit fit{chosen.variables, {}};
    for (const Candidate* other : pool) {
      if (other->ancestors == chosen.ancestors && !(direct_only && other->indirect)) fit.groups.push_back(other->group);
    }
    fits_[at(h)].push_back(std::move(fit));
  };
  std::vector<const Candidate*> serving;
  std::copy_if(pool.begin(), pool.end(), std::back_inserter(serving), [](const Candidate* c) { return c->everywhere; });
  if (serving.empty()) {
    if (need_cover) return;
    std::vector<const Candidate*> taken;
    for (const Candidate* candidate : pool) {
      const auto same = [&](const Candidate* other) { return other->ancestors == candidate->ancestors; };
      if (std::any_of(taken.begin(), taken.end(), same)) continue;
      taken.push_back(candidate);
      add(*candidate, false);
    }
    return;
  }
  const bool direct = std::any_of(serving.begin(), serving.end(), [](const Candidate* c) { return !c->indirect; });
  if (direct) std::erase_if(serving, [](const Candidate* c) { return c->indirect; });
  const bool rows_known =
      std::all_of(serving.begin(), serving.end(), [&](const Candidate* c) { return rows_of(c->group) >= 0; });
  std::vector<Bucket> buckets;
  std::int64_t most = 0;
  for (const Candidate* candidate : serving) {
    const std::int64_t rows = rows_known ? rows_of(candidate->group) : 0;
    most = std::max(most, rows);
    const auto same = [&](const Bucket& bucket) { return bucket.first->ancestors == candidate->ancestors; };
    const auto bucket = std::find_if(buckets.begin(), buckets.end(), same);
    if (bucket == buckets.end()) {
      buckets.push_back({candidate, rows});
    } else {
      bucket->rows += rows;
    }
  }
  std::erase_if(buckets, [&](const Bucket& bucket) { return kWorthwhileRows * bucket.rows < most; });
  const Bucket* best = nullptr;
  for (const Bucket& bucket : buckets) {
    const auto smaller = [&](const Bucket& other) {
      return other.first->ancestors.size() < bucket.first->ancestors.size() &&
             is_subset(other.first->ancestors, bucket.first->ancestors);
    };
    if (std::any_of(buckets.begin(), buckets.end(), smaller)) continue;
    if (best == nullptr || bucket.rows > best->rows) best = &bucket;
  }
  add(*best->first, direct);
}

}  // namespace mdcm
