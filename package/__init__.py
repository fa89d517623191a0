"""What turns the source into packages: the build backend, man pages, completions, the Debian package, the container.

None of it is installed.
"""
