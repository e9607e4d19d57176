"""Figures as pure functions, data in and picture out: expert maps, gate charts, strips of images."""
