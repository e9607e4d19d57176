"""Endless training stream: sample order (`order`, `mixture`, `partition`), batches (`stream`) and resumable state (`state`)."""
