"""The old API, in the shape of DarkSideSync 1.0. No hub imports it: it enters its own maker."""

from .._bindings import makers
from .darksidesync import DarkSideSync

makers["1.0"] = DarkSideSync
