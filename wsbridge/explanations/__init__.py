"""What reasons, problem codes, HTTP statuses, close codes and log events mean, and what to change: `wsbridge explain`.

The tables of docs/reasons.md and docs/configuration.md are made of these files (`python -m tests.docs.explanations`).
"""
