"""Random histories, searched for one that breaks a guarantee."""
