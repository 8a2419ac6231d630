"""Graph texts, readers and writers that the tests of several formats share."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import strategies as st

from mdcm.errors import GraphError
from mdcm.graph import ADMG
from mdcm.graph.formats import (
    parse_arrows,
    parse_dot,
    parse_gml,
    parse_graphml,
)

EXAMPLES = Path(importlib.util.find_spec("pgmpy").submodule_search_locations[0]) / "utils" / "example_models"
WRITERS = {"dag": ADMG.to_dagitty, "dot": ADMG.to_dot, "gml": ADMG.to_gml, "graphml": ADMG.to_graphml}
READERS = {"dag": parse_dot, "dot": parse_dot, "gml": parse_gml, "graphml": parse_graphml}

ODD_NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]) | st.just("\n"), min_size=1).filter(
    lambda name: bool(name.strip())
)

SPRINKLER = """network sprinkler {
}
variable rain { type discrete [ 2 ] { yes, no }; }
variable sprinkler { type discrete [ 2 ] { yes, no }; }
variable wet-grass { type discrete [ 2 ] { yes, no }; }
probability ( rain ) { table 0.2, 0.8; }
probability ( sprinkler | rain ) {
  (yes) 0.01, 0.99;
  (no) 0.4, 0.6;
}
probability ( wet-grass | sprinkler, rain ) {
  (yes, yes) 0.99, 0.01;
  (yes, no) 0.9, 0.1;
  (no, yes) 0.8, 0.2;
  (no, no) 0.0, 1.0;
}"""


def refusal(text, parse=parse_arrows):
    try:
        parse(text)
    except GraphError as error:
        return error
    return None


def message_of(parse, *arguments):
    with pytest.raises(GraphError) as caught:
        parse(*arguments)
    return str(caught.value)
