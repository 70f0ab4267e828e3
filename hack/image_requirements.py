"""Print what an extra of this project needs, one requirement a line: `image_requirements.py EXTRA`.

The image has its dependencies in a layer of their own, below the project, so that a change of the code installs
nothing anew; pip by itself installs dependencies only together with the project.
"""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extra: str) -> list[str]:
    """The project's own dependencies, then those of the extra."""
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


if __name__ == "__main__":
    print("\n".join(requirements(Path("pyproject.toml"), sys.argv[1])))
