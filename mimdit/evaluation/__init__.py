"""Evaluation: metrics of image pairs and of test sets, results of runs, and the tables made of them."""
