//! Parsers of procfs: each takes the text, so that it can be tested on real text kept as fixtures, and has a `read` beside it.
