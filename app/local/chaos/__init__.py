"""The proof: a stack of its own is broken in every way we know, and every document counted afterwards."""
