"""A judge behind HTTP, on Ray Serve."""
