"""Cached latents: what an autoencoder makes of aligned crops, computed once and stored in shards.

A sample's ``<key>.latents.safetensors`` holds two tensors ``lq`` and ``gt`` ``[2C, h, w]``: mean, then log-variance of the posterior of one
crop of both images, in one float type, neither sampled nor shifted nor scaled, which training does. The key is that of the image with the
number of the crop, ``08Haze/0000012_c03``. The json is the image's, where ``width`` and ``height`` are the crop's and added are ``crop``
([top, left] in the upright image), ``turns`` and ``mirror`` (how the crop was then flipped: an autoencoder does not commute with flips, so
the stream leaves latents as they are) and ``latents_sha256``. The images of the crop may lie beside (lossless PNG).

``index.json`` says in ``options.latents`` what made them: see `datamodules.latents.record.LatentRecord`. (ours)
"""
