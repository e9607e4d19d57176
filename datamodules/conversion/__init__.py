"""Conversion of listed pairs to shards: make a plan, write its shards in any order, close the folder with an index.

The plan determines the content of every shard. So a conversion that is split among machines, or killed and continued, ends with the same
bytes.
"""
