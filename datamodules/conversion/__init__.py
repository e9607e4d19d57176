"""Conversion of listed pairs to shards: make a plan, write its shards in any order, close the folder with an index.

The plan determines the content of every shard. So a conversion can be split among machines, killed and continued, and ends with the same
bytes.
"""
