"""Models side by side: the same LR, the same metrics, one report of figures, cost and pictures."""
