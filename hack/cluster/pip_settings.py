"""Print this machine's pip settings as a pip.conf for an image's build: `pip_settings.py CERTIFICATE`.

They may come from several files and from the environment, none of which a build sees. CERTIFICATE is where the build
finds the one that the settings name, if they name one.
"""

import ast
import subprocess
import sys


def main(certificate: str) -> None:
    listing = subprocess.run(
        ["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    found = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in {"global", ":env:", "install"}:
            found[name] = ast.literal_eval(value)  # a later line, of the environment, wins
    if "cert" in found:
        found["cert"] = certificate
    print("[global]")
    for name, value in found.items():
        print(name, "=", " ".join(value.split()))


if __name__ == "__main__":
    main(*sys.argv[1:])
