"""The old API, in the shape of DarkSideSync 1.0. No hub knows it: it enters itself."""

from .._bindings import makers
from .darksidesync import DarkSideSync

makers["1.0"] = DarkSideSync
