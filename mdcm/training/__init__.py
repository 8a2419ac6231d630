"""Training by plan: h-nodes level by level, each fitted to exactly the distributions that the plan names."""
