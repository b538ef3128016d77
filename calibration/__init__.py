"""Everything that decides numbers: images, statistics, ranges and the plan."""
