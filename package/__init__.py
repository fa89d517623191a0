"""What turns the source into packages: the build backend, man pages, completions, the Debian package.

None of it is installed.
"""
