"""Tests; a package, since an installed dependency brings a package of the same name."""
