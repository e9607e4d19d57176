"""Foundation: batches, files, canvases, user errors, stop signals and collectives.

Imports no other package of this project; every other package may import it.
"""
