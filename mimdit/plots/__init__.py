"""Figures: expert maps, gate charts, strips of images."""
