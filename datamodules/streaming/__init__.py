"""The endless training stream: the samples' order (`order`, `mixture`, `partition`), the batches (`stream`), where it stands (`state`)."""
