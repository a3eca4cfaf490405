"""From a pile of pictures to a training set: embed, deduplicate, cluster, filter, balance, and report each step."""
