"""What finished runs say about settings: metrics, pairs, intervals, tables."""
