"""Judging what was trained: evaluations, comparisons and reproductions."""
