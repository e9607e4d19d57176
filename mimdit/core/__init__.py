"""The ground floor: batches, files, errors, signals, collectives. Imports nothing of ours; everything may import it."""
