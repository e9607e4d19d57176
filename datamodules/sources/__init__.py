"""Sources of image pairs: FoundIR's archives read in place, unpacked folders, lists, any paired folders.

`listing` lists the pairs, `members` reads their bytes. Nothing here decodes an image, and `members` does not need torch.
"""
