"""What the stack is made of, as tests read it: compose file, Dockerfile, manifests.

No container engine runs in these tests: ``tools/try_image.sh`` is for that.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import yaml

from tests.support import ROOT, require

KUBERNETES = ROOT / "deploy" / "kubernetes"
DOCKERFILE = ROOT / "Dockerfile"
DEFAULT = re.compile(r"\$\{(\w+):-([^${}]*)\}")


def compose(**variables: str) -> Dict[str, Any]:
    """The compose file with these variables, as Compose fills them in."""
    text = "\n".join(
        line
        for line in (ROOT / "docker-compose.yml").read_text().split("\n")
        if not line.lstrip().startswith("#")
    )
    found = 1
    while found:  # from the inside out
        text, found = DEFAULT.subn(
            lambda match: variables.get(match[1]) or match[2], text
        )
    assert "$" not in text, "a variable without a default"
    loaded: Dict[str, Any] = yaml.safe_load(text)
    return loaded


def manifests() -> List[Dict[str, Any]]:
    return [
        document
        for path in sorted(KUBERNETES.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


def manifest(kind: str) -> Dict[str, Any]:
    (found,) = (one for one in manifests() if one["kind"] == kind)
    return found


def tool(name: str) -> str:
    """A program that came with a package of the tests."""
    places = [str(Path(sys.executable).parent), os.environ["PATH"]]
    found = shutil.which(name, path=os.pathsep.join(places))
    require(found, f"{name} is not installed")
    return str(found)


def output_of(*command: object) -> str:
    """What a command says that has to end well."""
    done = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
