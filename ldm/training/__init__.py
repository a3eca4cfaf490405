"""From a config to a Lightning training run."""
