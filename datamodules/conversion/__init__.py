"""From listed pairs to finished shards: a plan, shards that are written from it in any order, and a closing index.

What goes into which shard is settled by the plan alone, so a conversion may be cut among machines, killed and continued, and ends with
the same bytes.
"""
