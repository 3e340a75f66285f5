"""Install the oldest releases that the package allows; tox does it for the oldest CPython.

They are those of anyio, and of the extras that the tests of the library need.
"""

import subprocess
import sys
from importlib.metadata import requires

from packaging.requirements import Requirement

EXTRAS = {"trio", "uvloop", "top"}
oldest: list[str] = []
for requirement in map(Requirement, requires("dss_anyio") or []):
    if requirement.marker is None or any(
        requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS
    ):
        [floor] = [each.version for each in requirement.specifier if each.operator == ">="]
        oldest.append(f"{requirement.name}=={floor}")
print("the oldest releases:", *oldest)
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", *oldest]))
