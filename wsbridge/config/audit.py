"""Audit: the section that says where it goes.

Lives here: the section. Must not live here: the writing (`wsbridge.audit`).
"""

from __future__ import annotations

from wsbridge.config.path import OutputPath
from wsbridge.config.section import Section


class Audit(Section):
    """Who was let in and who was refused, as JSON lines in a file of their own."""

    file: OutputPath
    """Appended to, made with mode 0600, and opened anew after it was renamed or removed, as logrotate does."""
