"""Where images come from: made scenes, photographs, degradations and the shards that hold them."""
