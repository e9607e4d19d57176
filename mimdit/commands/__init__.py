"""The verbs of ``mimdit``, one a file: the only place in this package that may use ``datamodules`` and ``callbacks``."""
