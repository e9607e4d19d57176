"""Cached latents: an autoencoder's output for aligned crops, computed once and stored in shards. Not in the paper.

A sample's ``<key>.latents.safetensors`` holds two tensors ``lq`` and ``gt`` ``[2C, h, w]`` of one float type: mean, then log-variance of
the posterior of the same crop of each image. Sampling, shift and scale happen in training. The key is the image's with the number of the
crop, ``08Haze/0000012_c03``. The json is the image's with the crop's ``width`` and ``height``, and with ``crop`` ([top, left]
in the upright image), ``turns`` and ``mirror`` (the flips of the crop: an autoencoder does not commute with flips, so the stream leaves
latents unchanged) and ``latents_sha256``. The images of the crop may be stored beside the latents (lossless PNG).

``options.latents`` in ``index.json`` records how they were made: see `datamodules.shards.latents.LatentRecord`.
"""
