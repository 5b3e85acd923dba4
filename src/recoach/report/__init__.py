"""Tables, figures and HTML pages of recorded results; no metric is computed here."""
