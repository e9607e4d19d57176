"""Where image pairs come from: FoundIR's archives read in place, unpacked folders, lists, any paired folders.

`listing` says what pairs there are, `members` reads their bytes. Nothing here decodes an image, and `members` needs no torch.
"""
