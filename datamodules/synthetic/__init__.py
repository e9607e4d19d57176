"""Generated data: clean scenes to train on, degraded photographs to validate and test on, and the quickstart's shards."""
