"""What is made rather than found: clean scenes to train on, photographs degraded to validate and test, and the quickstart's shards."""
