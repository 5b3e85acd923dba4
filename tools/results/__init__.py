"""`make results`: the committed results, their tables and the documents that show them."""
