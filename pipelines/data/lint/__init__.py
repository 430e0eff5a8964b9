"""Checks of a preference data set: each a pure function from pairs to a finding with numbers."""
