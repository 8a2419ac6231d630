// Bytes as a mixed graph and questions about it: nothing may crash, and every answer is checked by a slow way.
//
// Linked with libFuzzer (clang, -fsanitize=fuzzer) it is a coverage-guided target. Compiled with MDCM_FUZZ_MAIN it has
// a driver of its own, which any compiler builds: it replays files, then changes bytes at random for some seconds.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "admg.hpp"
#include "components.hpp"
#include "identify.hpp"
#include "modularity.hpp"
#include "planning.hpp"
#include "separation.hpp"

namespace {

using mdcm::Admg;
using mdcm::Node;
using Set = std::vector<Node>;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  std::uint8_t next() { return at_ < size_ ? data_[at_++] : 0; }
  bool empty() const { return at_ >= size_; }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t at_ = 0;
};

std::size_t at(Node v) { return static_cast<std::size_t>(v); }

// A graph as the slow way sees it: every latent is a node of its own.
struct Plain {
  Node n = 0;
  std::vector<std::vector<bool>> arc;  // arc[a][b]: a -> b, latents behind the nodes

  bool reaches(Node a, Node b) const {
    std::vector<bool> seen(arc.size());
    Set pending{a};
    while (!pending.empty()) {
      const Node v = pending.back();
      pending.pop_back();
      if (v == b) return true;
      if (seen[at(v)]) continue;
      seen[at(v)] = true;
      for (std::size_t w = 0; w < arc.size(); ++w) {
        if (arc[at(v)][w]) pending.push_back(static_cast<Node>(w));
      }
    }
    return false;
  }

  bool confounded(Node a, Node b) const {
    for (std::size_t u = at(n); u < arc.size(); ++u) {
      if (arc[u][at(a)] && arc[u][at(b)]) return true;
    }
    return false;
  }

  // Separation in the moral graph of the ancestors (Lauritzen et al. 1990).
  bool separated(Node x, Node y, const Set& z) const {
    const std::size_t all = arc.size();
    std::vector<bool> within(all);
    Set base = z;
    base.push_back(x);
    base.push_back(y);
    for (std::size_t v = 0; v < all; ++v) {
      for (const Node w : base) within[v] = within[v] || reaches(static_cast<Node>(v), w);
    }
    std::vector<std::vector<bool>> moral(all, std::vector<bool>(all));
    for (std::size_t child = 0; child < all; ++child) {
      if (!within[child]) continue;
      for (std::size_t a = 0; a < all; ++a) {
        if (!within[a] || !arc[a][child]) continue;
        moral[a][child] = moral[child][a] = true;
        for (std::size_t b = 0; b < all; ++b) {
          if (within[b] && arc[b][child] && a != b) moral[a][b] = moral[b][a] = true;
        }
      }
    }
    std::vector<bool> seen(all);
    for (const Node v : z) seen[at(v)] = true;
    Set pending{x};
    while (!pending.empty()) {
      const Node v = pending.back();
      pending.pop_back();
      if (v == y) return false;
      if (seen[at(v)]) continue;
      seen[at(v)] = true;
      for (std::size_t w = 0; w < all; ++w) {
        if (moral[at(v)][w]) pending.push_back(static_cast<Node>(w));
      }
    }
    return true;
  }
};

bool holds(mdcm::Nodes set, Node v) {
  for (const Node w : set) {
    if (w == v) return true;
  }
  return false;
}

void check_order(const Admg& graph) {
  const mdcm::Nodes order = graph.topological_order();
  require(order.size() == at(graph.size()), "every node is in the order");
  for (std::size_t k = 0; k < order.size(); ++k) {
    require(graph.positions()[at(order[k])] == static_cast<Node>(k), "positions are the order's inverse");
    for (const Node parent : graph.parents(order[k])) {
      require(graph.positions()[at(parent)] < static_cast<Node>(k), "parents come first");
    }
  }
}

mdcm::Components check_components(const Admg& graph, const Plain& plain) {
  mdcm::Components found = mdcm::c_components(graph);
  std::vector<Node> label(at(graph.size()));
  for (Node v = 0; v < graph.size(); ++v) label[at(v)] = v;
  for (Node round = 0; round < graph.size(); ++round) {
    for (Node a = 0; a < graph.size(); ++a) {
      for (Node b = 0; b < graph.size(); ++b) {
        if (plain.confounded(a, b)) label[at(a)] = label[at(b)] = std::min(label[at(a)], label[at(b)]);
      }
    }
  }
  for (Node a = 0; a < graph.size(); ++a) {
    for (Node b = 0; b < graph.size(); ++b) {
      const bool same = found.label[at(a)] == found.label[at(b)];
      require(same == (label[at(a)] == label[at(b)]), "c-components are what bidirected paths connect");
    }
  }
  return found;
}

void check_closure(const Admg& graph, const Plain& plain, const Set& set) {
  mdcm::ModularityClosure closure(graph);
  const mdcm::Nodes result = closure.run(set, {});
  const Set closed(result.begin(), result.end());
  for (const Node v : set) require(holds(closed, v), "the closure contains the set");
  for (Node q = 0; q < graph.size(); ++q) {
    if (holds(closed, q)) continue;
    bool is_parent = false;
    bool below = false;
    for (const Node s : closed) {
      is_parent = is_parent || plain.arc[at(q)][at(s)];
      below = below || plain.reaches(s, q);
      for (Node w = 0; w < graph.size(); ++w) below = below || (plain.confounded(s, w) && plain.reaches(w, q));
    }
    require(!(is_parent && below), "the closure is closed");
  }
  for (const Node q : closure.added()) {
    const mdcm::Witness witness = closure.witness(q);
    require(witness.path.size() >= 2 && witness.path[1] == q, "a witness leads through what it is for");
    require(plain.arc[at(q)][at(witness.path[0])], "and begins at a child of it");
  }
}

void check_plan(const Admg& graph, const mdcm::Components& components, mdcm::Training training) {
  const std::vector<mdcm::Training> ways(at(components.count), training);
  const mdcm::HGraph plan(graph, components, ways, {mdcm::DatasetGroup{}});
  std::vector<bool> seen(at(graph.size()));
  for (Node h = 0; h < plan.size(); ++h) {
    for (const Node v : plan.members(h)) {
      require(!seen[at(v)], "h-nodes are disjoint");
      seen[at(v)] = true;
    }
  }
  for (Node v = 0; v < graph.size(); ++v) {
    require(seen[at(v)], "every node belongs to an h-node");
    for (Node w = 0; w < graph.size(); ++w) {
      if (components.label[at(v)] == components.label[at(w)]) {
        require(plan.labels()[at(v)] == plan.labels()[at(w)], "an h-node is a union of c-components");
      }
    }
  }
  for (const auto& [source, target] : plan.edges()) {
    require(plan.levels()[at(source)] < plan.levels()[at(target)], "what is needed is on a lower level");
  }
}

void check_identification(const Admg& graph, Node x, Node y, const Set& given) {
  mdcm::Question asked;
  asked.worlds.emplace_back();
  asked.worlds[0].push_back({x, x, -1});
  asked.atoms.push_back({y, 0, false});
  for (const Node v : given) asked.atoms.push_back({v, 0, true});
  const std::vector<mdcm::DatasetGroup> observed{mdcm::DatasetGroup{}};
  mdcm::Identification found(graph, observed, asked, true);
  if (found.verdict() == mdcm::Identification::Verdict::kYes) {
    const mdcm::Expression estimand = found.express();
    require(!estimand.terms.empty(), "an estimand has terms");
    for (const auto& term : estimand.terms) {
      for (const std::int32_t operand : term.operands) {
        require(operand >= 0 && operand < &term - estimand.terms.data(), "operands come before what they are of");
      }
    }
    return;
  }
  require(!found.failures().empty(), "a refusal has a reason");
  mdcm::DatasetGroup experiment;
  experiment.targets = {x};
  experiment.domain = {0};
  experiment.boxes = {{{{}}}};
  const std::vector<mdcm::DatasetGroup> both{mdcm::DatasetGroup{}, experiment};
  require(mdcm::Identification(graph, both, asked).verdict() == mdcm::Identification::Verdict::kYes,
          "an experiment on the cause answers");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const Node n = 1 + static_cast<Node>(bytes.next() % 9);
  const bool tame = bytes.next() % 4 != 0;
  Set tails, heads, first, second, latent_children;
  std::vector<std::int64_t> latent_offsets{0};
  for (int count = bytes.next() % 24; count > 0; --count) {
    Node a = static_cast<Node>(bytes.next() % 16);
    Node b = static_cast<Node>(bytes.next() % 16);
    if (tame) {
      a %= n;
      b %= n;
      if (a == b) continue;
      tails.push_back(std::min(a, b));
      heads.push_back(std::max(a, b));
    } else {
      // cycles, self-loops and strangers, which must be refused and nothing else
      tails.push_back(a - 1);
      heads.push_back(b - 1);
    }
  }
  for (int count = bytes.next() % 8; count > 0; --count) {
    const Node a = static_cast<Node>(bytes.next() % n);
    const Node b = static_cast<Node>(bytes.next() % n);
    if (a == b && tame) continue;
    first.push_back(a);
    second.push_back(b);
  }
  for (int count = bytes.next() % 3; count > 0; --count) {
    const unsigned mask = bytes.next() | (static_cast<unsigned>(bytes.next()) << 8);
    Set children;
    for (Node v = 0; v < n; ++v) {
      if ((mask >> v) % 2 != 0) children.push_back(v);
    }
    if (children.size() < 2) continue;
    latent_children.insert(latent_children.end(), children.begin(), children.end());
    latent_offsets.push_back(static_cast<std::int64_t>(latent_children.size()));
  }
  try {
    const Admg graph(n, {tails, heads, first, second, latent_offsets, latent_children});
    Plain plain;
    plain.n = n;
    const std::size_t all = at(n) + first.size() + latent_offsets.size() - 1;
    plain.arc.assign(all, std::vector<bool>(all));
    for (std::size_t k = 0; k < tails.size(); ++k) plain.arc[at(tails[k])][at(heads[k])] = true;
    for (std::size_t k = 0; k < first.size(); ++k) {
      plain.arc[at(n) + k][at(first[k])] = plain.arc[at(n) + k][at(second[k])] = true;
    }
    for (std::size_t k = 0; k + 1 < latent_offsets.size(); ++k) {
      for (auto c = latent_offsets[k]; c < latent_offsets[k + 1]; ++c) {
        plain.arc[at(n) + first.size() + k][at(latent_children[static_cast<std::size_t>(c)])] = true;
      }
    }
    check_order(graph);
    const mdcm::Components components = check_components(graph, plain);
    check_plan(graph, components, mdcm::Training::kAdversarial);
    check_plan(graph, components, mdcm::Training::kLikelihood);
    const unsigned mask = bytes.next() | (static_cast<unsigned>(bytes.next()) << 8);
    Set set;
    for (Node v = 0; v < n; ++v) {
      if ((mask >> v) % 2 != 0) set.push_back(v);
    }
    if (!set.empty()) check_closure(graph, plain, set);
    const Set up = mdcm::ancestors(graph, set);
    for (Node v = 0; v < n; ++v) {
      bool above = false;
      for (const Node w : set) above = above || plain.reaches(v, w);
      require(above == holds(up, v), "ancestors are what directed paths come from");
    }
    if (n < 2) return 0;
    const Node x = static_cast<Node>(bytes.next() % n);
    const Node y = static_cast<Node>((x + 1 + bytes.next() % (n - 1)) % n);
    Set z;
    for (const Node v : set) {
      if (v != x && v != y) z.push_back(v);
    }
    const bool apart = mdcm::m_separated(graph, Set{x}, Set{y}, z);
    require(apart == mdcm::m_separated(graph, Set{y}, Set{x}, z), "separation is symmetric");
    require(apart == plain.separated(x, y, z), "separation is that of the moral graph");
    check_identification(graph, x, y, {});
    (void)mdcm::latent_projection(graph, set, mdcm::Facets::kPairs);
    (void)mdcm::latent_projection(graph, set, mdcm::Facets::kShared);
  } catch (const mdcm::GraphFault&) {
    require(!tame || !first.empty(), "a tame graph is only refused for a pair given twice");
  }
  return 0;
}

#ifdef MDCM_FUZZ_MAIN
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

// core_fuzz SECONDS SEED CORPUS
int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: core_fuzz SECONDS SEED CORPUS\n");
    return 2;
  }
  const double seconds = std::atof(argv[1]);
  std::mt19937 rng(static_cast<unsigned>(std::atol(argv[2])));
  std::vector<std::vector<std::uint8_t>> corpus;
  for (const auto& entry : std::filesystem::directory_iterator(argv[3])) {
    std::ifstream file(entry.path(), std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    LLVMFuzzerTestOneInput(corpus.back().data(), corpus.back().size());
  }
  if (corpus.empty()) corpus.emplace_back(64, std::uint8_t{0});
  const auto began = std::chrono::steady_clock::now();
  long runs = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() < seconds) {
    for (int batch = 0; batch < 100; ++batch, ++runs) {
      std::vector<std::uint8_t> input = corpus[rng() % corpus.size()];
      if (rng() % 4 == 0) {
        for (auto& byte : input) byte = static_cast<std::uint8_t>(rng());
      }
      for (unsigned change = rng() % 8; change > 0; --change) {
        const std::size_t place = rng() % (input.size() + 1);
        if (place == input.size()) {
          if (input.size() < 256) input.push_back(static_cast<std::uint8_t>(rng()));
        } else {
          input[place] = static_cast<std::uint8_t>(rng());
        }
      }
      LLVMFuzzerTestOneInput(input.data(), input.size());
    }
  }
  std::printf("core: %ld inputs, nothing broken\n", runs);
  return 0;
}
#endif
