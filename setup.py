"""The files of a wheel outside of its package, and its extension; pyproject.toml has all other settings.

Installed below the prefix of the environment: share/man, completion scripts, and in share/doc/wsbridge the
documentation with conf/ and systemd/, which it links to.
"""

from pathlib import Path

from setuptools import setup

from package.native import setup_arguments

DOCUMENTATION = Path("share/doc/wsbridge")
SOURCES = {
    Path("build/share"): Path("share"),  # written by package/backend.py
    **{Path(name): DOCUMENTATION / name for name in ("conf", "docs", "systemd")},
}

directories = {str(DOCUMENTATION): ["README.md", "CHANGELOG.md", "SECURITY.md"]}
for source, target in SOURCES.items():
    for path in sorted(source.rglob("*")):
        if path.is_file():
            directories.setdefault(str(target / path.parent.relative_to(source)), []).append(str(path))

setup(data_files=list(directories.items()), **setup_arguments())
